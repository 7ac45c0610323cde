// calico is Calico's CNI plugin. A CNI configuration knows it by this name.
package main

import "github.com/projectcalico/calico/cni-plugin/pkg/plugin"

// The version is the one that the module's own manifests name.
func main() { plugin.Main("v3.28.5") }
