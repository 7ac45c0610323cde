package main

import (
	"slices"

	"github.com/cloudnativelabs/kube-router/v2/pkg/utils"
	v1 "k8s.io/api/core/v1"
)

// kube-router v2.1.0 is the only version to be had as a module. What stands here is what k3s's copy has on top of it today,
// as far as it changes which packets get through.

// ofFamily makes IPv6 work at all. v2.1.0's ip6tables rules call a set KUBE-DST-X, while its ipset code makes
// inet6:KUBE-DST-X: the rules name a set that is not there, and every sync with such a rule fails. The names hold a
// hash over the family, so none needs the prefix. And each family's handler reads and writes the sets of both: the
// one that comes last puts the other's members of the round before back.
type ofFamily struct {
	utils.IPSetHandler
	family v1.IPFamily
}

func newSets(family v1.IPFamily) (utils.IPSetHandler, error) {
	sets, err := utils.NewIPSet(false) // true would prefix the names
	return ofFamily{sets, family}, err
}

func (s ofFamily) Save() error {
	err := s.IPSetHandler.Save()
	for name, set := range s.Sets() {
		if slices.Contains(set.Options, utils.FamillyInet6) != (s.family == v1.IPv6Protocol) {
			delete(s.Sets(), name)
		}
	}
	return err
}

func (s ofFamily) RefreshSet(name string, entries [][]string, setType string) {
	s.IPSetHandler.RefreshSet(name, entries, setType)
	if set := s.Get(name); s.family == v1.IPv6Protocol && !slices.Contains(set.Options, utils.FamillyInet6) {
		set.Options = append(set.Options, utils.OptionFamilly, utils.FamillyInet6)
	}
}

// allowICMP lets through, whatever the policies, the ICMP that today's kube-router always accepts: without neighbour
// discovery an isolated pod cannot reach over IPv6 what its policy allows. Echo requests are among it, so on k3s no
// policy stops a ping. The rules come before the pods' own, which kube-router appends.
func allowICMP(handlers map[v1.IPFamily]utils.IPTablesHandler) error {
	types := map[v1.IPFamily][]string{
		v1.IPv4Protocol: {"echo-request", "destination-unreachable", "time-exceeded"},
		v1.IPv6Protocol: {"echo-request", "destination-unreachable", "time-exceeded",
			"neighbor-solicitation", "neighbor-advertisement", "echo-reply"},
	}
	for family, handler := range handlers {
		protocol, option := "icmp", "--icmp-type"
		if family == v1.IPv6Protocol {
			protocol, option = "ipv6-icmp", "--icmpv6-type"
		}
		for _, chain := range []string{"KUBE-ROUTER-INPUT", "KUBE-ROUTER-FORWARD", "KUBE-ROUTER-OUTPUT"} {
			if exists, err := handler.ChainExists("filter", chain); err != nil {
				return err
			} else if !exists {
				if err := handler.NewChain("filter", chain); err != nil {
					return err
				}
			}
			for _, kind := range types[family] {
				if err := handler.AppendUnique("filter", chain, "-p", protocol, option, kind, "-j", "ACCEPT"); err != nil {
					return err
				}
			}
		}
	}
	return nil
}
