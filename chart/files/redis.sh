# The settings come from standard input: as arguments, the passwords would be visible in the list of processes.
# If each process has a password, each has a user with only the rights that it needs, and the shared password allows nothing.
set -f
hash() { printf %s "$1" | sha256sum | cut -d ' ' -f 1; }
access="requirepass \"$REDIS_PASSWORD\""
if [ -n "$VERIFIER_PASSWORD" ] && [ -n "$RECONCILER_PASSWORD" ]; then
  scripts="+evalsha +script|load +script|exists"
  common="-@all +ping +time +multi +exec +discard $scripts +type +get +set +mget +exists +expire +scan +hgetall +hexists"
  common="$common +hset +hget +hdel +hincrby"
  own="" read="" written=""
  for key in epoch solution:* charges:* rejected:* pass:* promise:* keeps:* launch:* unlock:* withdrawn:* wiring hub verifiers; do
    own="$own ~binder-egress:$key"
  done
  for key in server:* stop:* lifted:* blocks revoked reconciler counters tiers gatecheck lines; do
    read="$read %R~binder-egress:$key"
  done
  for key in epoch charges:key:* launch:* unlock:* withdrawn:* server:* stop:* lifted:* blocks revoked wake actions reconciler \
    counters tiers gatecheck addresses changes detections detected agents lines; do
    written="$written ~binder-egress:$key"
  done
  access="user default off
user verifier on #$(hash "$VERIFIER_PASSWORD") $common +ttl +incr +hsetnx +info $own $read (+rpush %W~binder-egress:wake) \
(+hsetnx %W~binder-egress:blocks %W~binder-egress:revoked) (+xrevrange %R~binder-egress:detected)
user reconciler on #$(hash "$RECONCILER_PASSWORD") $common +del +hsetnx +rpush +lpop +blpop +info +hkeys \
+xadd +xdel +xrange +xrevrange +publish &binder-egress:addresses %R~binder-egress:* $written"
  # Only the receiver writes detectors' reports; no process that faces strangers does (D-354).
  if [ -n "$RECEIVER_PASSWORD" ]; then
    access="$access
user receiver on #$(hash "$RECEIVER_PASSWORD") -@all +ping +multi +exec (+xadd +expire %W~binder-egress:detections) \
(+hexists %R~binder-egress:agents) (+hincrby ~binder-egress:lines) (+set %W~binder-egress:unreadable)"
  fi
  if [ -n "$PROXY_PASSWORD" ]; then
    access="$access
user proxy on #$(hash "$PROXY_PASSWORD") -@all +ping +multi +exec +get +hgetall +subscribe +unsubscribe \
&binder-egress:addresses %R~binder-egress:addresses %R~binder-egress:changes %R~binder-egress:hub +set %W~binder-egress:wanted:*"
  fi
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
