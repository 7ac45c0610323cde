# Names, addresses and helpers of the local cluster's scripts. Sourced, never run.
# shellcheck shell=bash disable=SC2034
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
here=$top/ci/cluster

name=${CLUSTER_NAME:-binder-egress}   # clusters of different names run side by side
family=${CLUSTER_IP_FAMILY:-dual}     # dual, or ipv4: what k3s does by default
network=${CLUSTER_NETWORK:-kube-router}   # who enforces NetworkPolicy: a file of networks/
nodes=${CLUSTER_NODES:-1}             # the first has the API server; the second has users' servers (placement.yaml)
state=$cache/clusters/$name
[[ $name =~ ^[a-z0-9][a-z0-9-]{0,40}$ ]] || { echo "CLUSTER_NAME: lower case letters, digits and - only, not '$name'" >&2; exit 2; }
[[ $nodes =~ ^[1-4]$ ]] || { echo "CLUSTER_NODES: 1 to 4, not '$nodes'" >&2; exit 2; }
[[ $family =~ ^(dual|ipv4)$ ]] || { echo "CLUSTER_IP_FAMILY: dual or ipv4, not '$family'" >&2; exit 2; }
[[ $network =~ ^[a-z-]+$ && -e $here/networks/$network.sh ]] || {
  echo "CLUSTER_NETWORK: one of $(cd "$here/networks"; echo *.sh | sed 's/\.sh//g'), not '$network'" >&2
  exit 2
}

internet_ns=$name-internet first_ns=$name-node   # network namespaces; nothing in them can leave the machine
# The only link, of the internet and all nodes; pods and Services as in k3s.
internet_ip=172.30.0.1 internet6=fd30::1 api=172.30.0.2 api6=fd30::2   # the API server is on the first node
pods=10.42.0.0/16 services=10.43.0.0/16 first_service=10.43.0.1 dns=10.43.0.10
pods6=fd42::/56 services6=fd43::/112 first_service6=fd43::1 dns6=fd43::a
# of NUMBER: chooses the node that functions and variables below are about.
of() {
  number=$1 node=node${1#1} node_ip=172.30.0.$(($1 + 1)) node6=fd30::$(($1 + 1))
  node_pods=10.42.$(($1 - 1)).0/24 node_pods6=fd42:0:0:$(($1 - 1))::/64
  node_ns=$name-$node node_state=$state/$node cgroup=/cluster-$name.$node   # the kubelet's cgroupRoot
}
each_node() { local i; for i in $(seq "$nodes"); do of "$i"; "$@" || return; done; }
registry=127.0.0.1:5000   # of images, for the first node alone
# The internet: addresses that are public, that only look reachable, and that must never be reachable.
public=203.0.113.10 packages=203.0.113.20 private=10.99.0.10 metadata=169.254.169.254 outside_dns=203.0.113.53
public6=2001:db8::10 private6=fd00:99::10 metadata6=fd00:ec2::254 outside_dns6=2001:db8::53

# Clusters share the address 172.30.0.2:6443, so kubectl and helm would share what they cache of an API server.
export KUBECACHEDIR=$state/kube-cache

dual() { [ "$family" = dual ]; }
both() { if dual; then echo "$1,$2"; else echo "$1"; fi; }  # both V4 V6: as a list for a flag

# Process 1 of the node's PID namespace, as the machine sees it; fails if there is none. It is found by its command, not by a number
# kept in a file: the number may belong to another process by now, and a killed `up` left no file. It may be any checkout's, since
# they share the state.
init_pid() {
  local file
  for file in $(grep -lsaxzF "cluster-node=$node_state" /proc/[0-9]*/cmdline || true); do
    if grep -qs $'^NSpid:.*\t1$' "${file%cmdline}status" && grep -qsaxzE '.*/ci/cluster/node\.sh' "$file"; then
      file=${file#/proc/}; echo "${file%/cmdline}"; return
    fi
  done
  return 1
}
# What differs between the networks is in their files:
#   network_build     builds what ci/tools does not have, and prints its folder, which the other functions find in $built
#   cni_plugin        in $node_state: prints the first plugin of the CNI configuration, without its addresses; may add to cni-bin/
#   network_objects   makes the objects that it needs in the API server
#   network_run       network_run KUBECONFIG, in the node: starts what enforces policies, under the name netpol
#   network_enforces  whether it does so by now
. "$here/networks/$network.sh"

# A command in the node: its mounts, its processes, its network.
on_node() { nsenter -t "$(init_pid)" -m -p -n -- "$@"; }
# A command in the node's network only. Not `ip netns exec`: that hides the cgroup mounts.
in_network() { nsenter --net=/run/netns/$node_ns -- "$@"; }
kubectl() { nsenter --net=/run/netns/$first_ns -- "$(<"$state/tools")/kubectl" --kubeconfig "$state/pki/admin.kubeconfig" "$@"; }
answers() { kubectl get --raw /readyz --request-timeout 2s >/dev/null 2>&1; }
wait_for() {  # wait_for WHAT COMMAND…: at most 60 s
  local what=$1 end=$((SECONDS + 60)); shift
  until "$@" >/dev/null 2>&1; do
    [ $SECONDS -lt $end ] || { echo "not within 60 s: $what. Logs: $node_state/log" >&2; return 1; }
    sleep 0.1
  done
}

# A command is about the node of users' servers, or the one that CLUSTER_NODE names.
of "${CLUSTER_NODE:-$([ -d "$state/node2" ] && echo 2 || echo 1)}"
