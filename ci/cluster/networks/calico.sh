# Calico's policy engine, Felix, with its CNI plugin. What a file here defines: env.sh.
# shellcheck shell=bash disable=SC2034
network_build() { "$top/ci/calico/build"; }

cni_plugin() {
  ln -s "$built/calico" cni-bin/
  mkdir -p lib/calico; echo "$node" >lib/calico/nodename   # without it, the plugin fails although it is told the name
  echo '"type": "calico", "nodename": "'"$node"'", "datastore_type": "kubernetes", "mtu": 1500, "policy": {"type": "k8s"},' \
    '"log_level": "info", "log_file_path": "/var/log/calico-cni.log",' \
    '"kubernetes": {"kubeconfig": "'"$state"'/pki/admin.kubeconfig"}'
}

network_objects() {  # what Calico's own start script leaves in the API server, as far as Felix and the plugin wait for it
  kubectl apply --server-side -f "$built/crd"
  kubectl wait --for=condition=Established crd/clusterinformations.crd.projectcalico.org --timeout=30s
  kubectl apply -f - <<YAML
apiVersion: crd.projectcalico.org/v1
kind: ClusterInformation
metadata: {name: default}
spec: {datastoreReady: true, clusterType: k8s}
YAML
}

network_run() {  # as Calico's manifests for policies alone (canal), with IPv6 where the cluster has it; XDP and BPF need cgo
  keep netpol env KUBECONFIG="$1" FELIX_DATASTORETYPE=kubernetes FELIX_FELIXHOSTNAME="$node" \
    FELIX_IPV6SUPPORT="$(if dual; then echo true; else echo false; fi)" FELIX_DEFAULTENDPOINTTOHOSTACTION=ACCEPT \
    FELIX_IPTABLESBACKEND=NFT FELIX_BPFENABLED=false FELIX_XDPENABLED=false FELIX_USAGEREPORTINGENABLED=false \
    FELIX_HEALTHENABLED=true FELIX_HEALTHHOST=127.0.0.1 FELIX_LOGSEVERITYSCREEN=Info \
    FELIX_LOGFILEPATH=none FELIX_LOGSEVERITYFILE=none FELIX_LOGSEVERITYSYS=none "$built/felix"
}

network_enforces() { in_network curl -sf http://127.0.0.1:9099/readiness; }
