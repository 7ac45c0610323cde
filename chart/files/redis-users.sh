# The settings come from standard input: as arguments, the passwords would be visible in the list of processes.
# If each process has a password, each has a user with only the rights that it needs, and the shared password allows nothing.
set -f
hash() { printf %s "$1" | sha256sum | cut -d ' ' -f 1; }
access="requirepass \"$REDIS_PASSWORD\""
# A row: user, commands, right, keys. Commands without keys are good for all keys of the user's rows without commands (D-241).
# Rights are as in Redis' ACL: ~ read and write, %R~ read, %W~ write, & publish and subscribe.
# Only the receiver enters detectors' reports; no process that faces strangers does (D-354).
rights='
verifier,ping time multi exec discard evalsha script|load script|exists info
verifier,type get getrange set mget exists expire ttl incr scan hgetall hexists hset hsetnx hget hdel hincrby
verifier,,~,epoch solution:* charges:* rejected:* pass:* promise:* keeps:* launch:* unlock:* withdrawn:* wiring hub verifiers
verifier,,%R~,server:* stop:* lifted:* blocks revoked reconciler counters tiers gatecheck labels lines restored
verifier,rpush,%W~,wake
verifier,hsetnx,%W~,blocks revoked
verifier,xrevrange,%R~,detected
reconciler,ping time multi exec discard evalsha script|load script|exists info publish
reconciler,type get getrange set mget exists expire del scan hgetall hexists hset hsetnx hget hdel hincrby hkeys
reconciler,rpush lpop blpop xadd xdel xtrim xrange xrevrange
reconciler,,%R~,*
reconciler,,~,epoch charges:key:* launch:* unlock:* withdrawn:* server:* stop:* lifted:* blocks revoked wake commands actions
reconciler,,~,reconciler counters tiers gatecheck labels addresses changes detections detected agents lines scans restored
reconciler,,~,uses report
reconciler,,&,addresses
receiver,ping multi exec
receiver,xadd expire,%W~,detections uses
receiver,hexists,%R~,agents
receiver,hincrby,~,lines
receiver,set,%W~,unreadable
proxy,ping multi exec get getrange hgetall set rpush expire subscribe unsubscribe
proxy,,%R~,addresses changes hub
proxy,,%W~,wanted:* scans
proxy,,&,addresses
'
user() {
  [ -z "$2" ] || printf '\nuser %s on #%s -@all' "$1" "$(hash "$2")"
  [ -z "$2" ] || echo "$rights" | while IFS=, read -r user commands right keys; do
    [ "$user" = "$1" ] || continue
    rules=""
    for command in $commands; do rules="$rules +$command"; done
    for key in $keys; do rules="$rules ${right}binder-egress:$key"; done
    [ -n "$commands" ] && [ -n "$keys" ] && rules=" ($rules )"
    printf %s "$rules"
  done
}
if [ -n "$VERIFIER_PASSWORD" ] && [ -n "$RECONCILER_PASSWORD" ]; then
  access="user default off$(user verifier "$VERIFIER_PASSWORD")$(user reconciler "$RECONCILER_PASSWORD")"
  access="$access$(user receiver "$RECEIVER_PASSWORD")$(user proxy "$PROXY_PASSWORD")"
fi
# Nothing is kept on disk (D-084).
exec redis-server - <<SETTINGS
$access
port 6379
dir /tmp
save ""
appendonly no
maxmemory $MAXMEMORY
maxmemory-policy noeviction
SETTINGS
