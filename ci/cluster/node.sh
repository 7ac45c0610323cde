#!/bin/bash
# Process 1 of the node's PID namespace, in its own mount and network namespace. Started by `up`, not by hand, for CLUSTER_NODE.
. "$(dirname "$0")/env.sh"
tools=$(<"$state/tools") built=$(<"$state/built") pki=$state/pki admin=$state/pki/admin.kubeconfig
cd "$node_state"
is_first() { [ "$node" = node ]; }

exec 9</run/netns/$internet_ns   # while /run is still the machine's
# All components use their default paths, at which our folders are mounted, so nothing is left in the machine's.
mount -t tmpfs tmpfs /run
mount --bind "$node_state/lib" /var/lib
mount --bind "$node_state/log" /var/log
# The kubelet sets these for the whole machine; here it gets files to write to.
for key in vm/overcommit_memory vm/panic_on_oom kernel/panic kernel/panic_on_oops \
  kernel/keys/root_maxkeys kernel/keys/root_maxbytes; do
  [ -e /proc/sys/$key ] || continue
  mkdir -p "sysctl/${key%/*}"; cat /proc/sys/$key >"sysctl/$key"; mount --bind "sysctl/$key" /proc/sys/$key
done
mount --make-rshared /           # the kubelet wants shared mounts

# Most of these processes are Go's. Their memory is small here, and collecting it took a third of the API server's time.
export GOGC=400

# keep NAME COMMAND…: run it, and again whenever it ends. Its pid is in a file, for `restart`.
keep() {
  local name=$1; shift
  while :; do
    "$@" >>"log/$name.log" 2>&1 & echo $! >"pid/$name"
    wait $! || true
    sleep 0.2
  done &
}
kube() { keep "$1" "$tools/kubeall" "$@"; }

internet() {
  local address listen=()
  for address in "$public" "$private" "$metadata" "[$public6]" "[$private6]" "[$metadata6]"; do
    listen+=("$address":{80,443,9000})
  done
  keep internet nsenter --net=/dev/fd/9 "$tools/probe" serve "${listen[@]}"
  keep outside-dns nsenter --net=/dev/fd/9 "$tools/coredns" -conf "$state/Corefile"
}
api_server() {
  # Where there are several nodes, a policy of admission says which pod goes where (placement.yaml).
  local placing=()
  [ "$nodes" = 1 ] ||
    placing=(--feature-gates MutatingAdmissionPolicy=true --runtime-config admissionregistration.k8s.io/v1beta1=true)
  kube etcd --data-dir etcd --unsafe-no-fsync --log-level warn --listen-peer-urls http://127.0.0.1:2380 \
    --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379
  kube kube-apiserver --etcd-servers http://127.0.0.1:2379 --advertise-address $api --secure-port 6443 \
    --service-cluster-ip-range "$(both $services $services6)" --allow-privileged \
    --tls-cert-file $pki/apiserver.crt --tls-private-key-file $pki/apiserver.key --client-ca-file $pki/ca.crt \
    --kubelet-client-certificate $pki/admin.crt --kubelet-client-key $pki/admin.key --kubelet-certificate-authority $pki/ca.crt \
    --kubelet-preferred-address-types InternalIP \
    --service-account-key-file $pki/sa.key --service-account-signing-key-file $pki/sa.key \
    --service-account-issuer https://kubernetes.default.svc.cluster.local \
    --authorization-mode Node,RBAC --enable-admission-plugins NodeRestriction "${placing[@]}"
}
controllers() {
  kube kube-controller-manager --kubeconfig $admin --leader-elect=false --root-ca-file $pki/ca.crt \
    --service-account-private-key-file $pki/sa.key --cluster-cidr "$(both $pods $pods6)"
  kube kube-scheduler --kubeconfig $admin --leader-elect=false
}

if is_first; then internet; fi
exec 9<&-
keep containerd containerd --config containerd.toml
if is_first; then api_server; fi

until [ -S /run/containerd/containerd.sock ] && ctr version >/dev/null 2>&1; do sleep 0.1; done
for image in "$(<"$state/images")"/*.tar; do ctr -n k8s.io images import "$image" >>log/images.log; done
until curl -skf https://$api:6443/readyz >/dev/null; do sleep 0.1; done

if is_first; then controllers; fi
kube kubelet --config kubelet.yaml --kubeconfig "$pki/$node.kubeconfig" --node-ip "$(both $node_ip $node6)" \
  --hostname-override "$node"
# The proxy learns the node's addresses when it starts.
until curl -sf --cacert $pki/ca.crt --cert $pki/admin.crt --key $pki/admin.key \
  "https://$api:6443/api/v1/nodes/$node" >/dev/null; do sleep 0.1; done
# Conntrack's settings are read-only outside the machine's first network namespace; 0 means "leave alone".
kube kube-proxy --kubeconfig $admin --hostname-override "$node" --cluster-cidr "$(both $pods $pods6)" --proxy-mode iptables \
  --conntrack-max-per-core 0 --conntrack-min 0 --conntrack-tcp-timeout-established 0 --conntrack-tcp-timeout-close-wait 0
network_run $admin
wait
