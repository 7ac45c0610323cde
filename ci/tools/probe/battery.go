package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

type verdict struct {
	Reached bool   `json:"reached"`
	Detail  string `json:"detail"`
}

// battery tries many targets at once and reports all of them: an unreachable target is a result, not a failure.
func battery(args []string) error {
	flags := flag.NewFlagSet("battery", flag.ExitOnError)
	timeout := flags.Duration("timeout", time.Second, "limit of one attempt")
	attempts := flags.Int("attempts", 2, "attempts before a target counts as unreachable")
	flags.Parse(args)

	var lines []string
	for _, arg := range flags.Args() {
		if strings.Contains(arg, "=") {
			lines = append(lines, arg)
			continue
		}
		file := os.Stdin
		if arg != "-" {
			var err error
			if file, err = os.Open(arg); err != nil {
				return err
			}
			defer file.Close()
		}
		scanner := bufio.NewScanner(file)
		for scanner.Scan() {
			if line := strings.TrimSpace(scanner.Text()); line != "" && !strings.HasPrefix(line, "#") {
				lines = append(lines, line)
			}
		}
		if err := scanner.Err(); err != nil {
			return err
		}
	}

	verdicts := map[string]verdict{}
	var lock sync.Mutex
	var wait sync.WaitGroup
	for _, line := range lines {
		name, target, ok := strings.Cut(line, "=")
		if !ok || !strings.Contains(target, "://") {
			return fmt.Errorf("not name=scheme://target: %q", line)
		}
		wait.Go(func() {
			var detail string
			var err error
			for n := 0; n < *attempts; n++ {
				if detail, err = reach(target, *timeout); err == nil {
					break
				}
			}
			v := verdict{err == nil, detail}
			if err != nil {
				v.Detail = err.Error()
			}
			lock.Lock()
			defer lock.Unlock()
			verdicts[name] = v
		})
	}
	wait.Wait()
	return json.NewEncoder(os.Stdout).Encode(verdicts)
}

// reach makes one attempt; nil means that something answered.
func reach(target string, timeout time.Duration) (string, error) {
	u, err := url.Parse(target)
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	dial := func(network, addr string) (net.Conn, error) {
		c, err := new(net.Dialer).DialContext(ctx, network, addr)
		if err == nil {
			deadline, _ := ctx.Deadline()
			c.SetDeadline(deadline)
		}
		return c, err
	}
	switch u.Scheme {
	case "tcp":
		c, err := dial("tcp", u.Host)
		if err != nil {
			return "", err
		}
		defer c.Close()
		return "connected to " + c.RemoteAddr().String(), nil
	case "udp":
		c, err := dial("udp", u.Host)
		if err != nil {
			return "", err
		}
		defer c.Close()
		b := make([]byte, 1500)
		if _, err = c.Write([]byte("probe")); err != nil {
			return "", err
		}
		n, err := c.Read(b)
		return fmt.Sprintf("answer of %d bytes", n), err
	case "http", "https":
		client := http.Client{
			// Whoever answers has been reached, whatever its certificate or status; a proxy from the environment
			// would answer in the target's place.
			Transport:     &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		}
		request, err := http.NewRequestWithContext(ctx, "GET", target, nil)
		if err != nil {
			return "", err
		}
		response, err := client.Do(request)
		if err != nil {
			return "", err
		}
		defer response.Body.Close()
		body, _ := io.ReadAll(io.LimitReader(response.Body, 120))
		return response.Status + " " + strings.TrimSpace(string(body)), nil
	case "dns":
		c, err := dial("udp", u.Host)
		if err != nil {
			return "", err
		}
		defer c.Close()
		return ask(c, strings.Trim(u.Path, "/"))
	case "icmp":
		return ping(ctx, u.Hostname())
	}
	return "", fmt.Errorf("unknown scheme %q", u.Scheme)
}

// ask sends one query; NXDOMAIN and SERVFAIL are answers too.
func ask(c net.Conn, name string) (string, error) {
	question, err := dnsmessage.NewName(strings.TrimSuffix(name, ".") + ".")
	if err != nil {
		return "", err
	}
	id := uint16(rand.Uint32())
	query := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: id, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: question, Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}},
	}
	b, err := query.Pack()
	if err != nil {
		return "", err
	}
	if _, err = c.Write(b); err != nil {
		return "", err
	}
	b = make([]byte, 1500)
	for {
		n, err := c.Read(b)
		if err != nil {
			return "", err
		}
		var answer dnsmessage.Message
		if answer.Unpack(b[:n]) == nil && answer.Response && answer.ID == id {
			return fmt.Sprintf("%s, %d records", answer.RCode, len(answer.Answers)), nil
		}
	}
}

// ping uses the kernel's unprivileged echo socket, which containerd allows pods as k3s sets it.
func ping(ctx context.Context, host string) (string, error) {
	addrs, err := net.DefaultResolver.LookupIPAddr(ctx, host)
	if err != nil {
		return "", err
	}
	to := addrs[0]
	network, local, kind := "udp4", "0.0.0.0", icmp.Type(ipv4.ICMPTypeEcho)
	if to.IP.To4() == nil {
		network, local, kind = "udp6", "::", ipv6.ICMPTypeEchoRequest
	}
	c, err := icmp.ListenPacket(network, local)
	if err != nil {
		return "", err
	}
	defer c.Close()
	deadline, _ := ctx.Deadline()
	c.SetDeadline(deadline)
	message := icmp.Message{Type: kind, Body: &icmp.Echo{ID: 1, Seq: 1, Data: []byte("probe")}}
	b, err := message.Marshal(nil)
	if err != nil {
		return "", err
	}
	if _, err = c.WriteTo(b, &net.UDPAddr{IP: to.IP, Zone: to.Zone}); err != nil {
		return "", err
	}
	// The kernel hands this socket only the replies to its own requests.
	_, from, err := c.ReadFrom(make([]byte, 1500))
	if err != nil {
		return "", err
	}
	return "reply from " + from.String(), nil
}
