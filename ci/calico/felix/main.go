// felix runs Calico's policy engine. Its settings are the environment variables FELIX_….
package main

import "github.com/projectcalico/calico/felix/daemon"

// Without a configuration file. The version is the one that the module's own manifests name.
func main() { daemon.Run("/dev/null", "v3.28.5", "module", "") }
