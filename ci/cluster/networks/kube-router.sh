# kube-router's policy controller with the bridge plugin, as k3s has them. What a file here defines: env.sh.
# shellcheck shell=bash disable=SC2034
network_build() { :; }   # ci/tools has it

cni_plugin() { echo '"type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true'; }

network_objects() { :; }

network_run() {
  # kube-router saves the whole filter table and restores it milliseconds later. Chains that kube-proxy made in between are gone,
  # and the proxy looks again only after 30 s. So kube-router starts after the proxy's first round.
  until curl -sf http://127.0.0.1:10256/healthz >/dev/null; do sleep 0.1; done
  keep netpol "$tools/netpol" --kubeconfig "$1" --hostname-override "$node" \
    --service-cluster-ip-range "$(both $services $services6)" \
    --enable-ipv6="$(if dual; then echo true; else echo false; fi)" --iptables-sync-period 5m -v 1
}

network_enforces() { grep -q 'sync iptables took' "$node_state/log/netpol.log"; }
