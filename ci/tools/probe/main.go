// probe is the test pods' tool: servers for "the internet", clients that say to the millisecond what got through.
//
//	probe serve ADDR…           on each ADDR (host:port): HTTP, HTTPS and a TCP echo on one port, and a UDP echo
//	probe battery [--timeout 1s] [--attempts 2] NAME=TARGET…|FILE|-
//	                            all targets at once; prints {"NAME": {"reached": true, "detail": "…"}, …}, exit 0.
//	                            A file has one NAME=TARGET a line, - is standard input. TARGET is one of tcp://h:p
//	                            udp://h:p http://… https://… dns://server:53/name icmp://h, IPv6 in brackets
//	probe try TARGET            one attempt, 1 s limit: prints ok or the error; exit 1 if unreachable
//	probe loop ADDR SECONDS     connect in a tight loop from the first instant; prints first/last success since start
//	probe watch ADDR            one attempt every 10 ms, for ever; prints each change with a Unix time in ms
//	probe stream ADDR           one TCP connection that echoes a byte every 10 ms; prints when it stalls or ends
package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"time"
)

func main() {
	if len(os.Args) < 3 || os.Args[1] == "loop" && len(os.Args) < 4 {
		usage()
	}
	var err error
	switch os.Args[1] {
	case "serve":
		err = serve(os.Args[2:])
	case "battery":
		err = battery(os.Args[2:])
	case "try":
		if _, err := reach(os.Args[2], time.Second); err != nil {
			fmt.Println("FAIL", err)
			os.Exit(1)
		}
		fmt.Println("ok")
	case "loop":
		var seconds float64
		if seconds, err = strconv.ParseFloat(os.Args[3], 64); err == nil {
			loop(os.Args[2], time.Duration(seconds*float64(time.Second)))
		}
	case "watch":
		watch(os.Args[2])
	case "stream":
		stream(os.Args[2])
	default:
		usage()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "probe:", err)
		os.Exit(2)
	}
}

func usage() {
	fmt.Fprintln(os.Stderr, "usage: probe serve|battery|try|loop|watch|stream …, see the head of main.go")
	os.Exit(2)
}

func dial(addr string, limit time.Duration) bool {
	c, err := net.DialTimeout("tcp", addr, limit)
	if err == nil {
		c.Close()
	}
	return err == nil
}

// loop: where a packet is dropped a dial would hang, so every millisecond starts a new one.
func loop(addr string, length time.Duration) {
	start := time.Now()
	type result struct {
		ok bool
		at time.Duration
	}
	results := make(chan result, 100000)
	sent := 0
	for time.Since(start) < length {
		at := time.Since(start)
		sent++
		go func() { results <- result{dial(addr, 300*time.Millisecond), at} }()
		time.Sleep(time.Millisecond)
	}
	first, last, oks := time.Duration(-1), time.Duration(-1), 0
	for range sent {
		if r := <-results; r.ok {
			oks++
			if first < 0 || r.at < first {
				first = r.at
			}
			last = max(last, r.at)
		}
	}
	fmt.Printf("attempts=%d ok=%d first_ok_ms=%.1f last_ok_ms=%.1f\n", sent, oks, ms(first), ms(last))
}

func ms(d time.Duration) float64 { // -1: never
	if d < 0 {
		return -1
	}
	return float64(d.Microseconds()) / 1000
}

// watch starts an attempt every 10 ms whatever became of the ones before, and prints the changes.
func watch(addr string) {
	was := "?"
	type result struct {
		ok bool
		at time.Time
	}
	results := make(chan result, 1000)
	go func() {
		for {
			at := time.Now()
			go func() { results <- result{dial(addr, 100*time.Millisecond), at} }()
			time.Sleep(10 * time.Millisecond)
		}
	}()
	var last time.Time
	for r := range results {
		if r.at.Before(last) { // an older attempt that took longer says nothing new
			continue
		}
		last = r.at
		now := map[bool]string{true: "open", false: "closed"}[r.ok]
		if now != was {
			// for "open" the moment the connection stood, for "closed" the moment of the first attempt that failed
			at := r.at
			if r.ok {
				at = time.Now()
			}
			fmt.Println(at.UnixMilli(), now)
			was = now
		}
	}
}

func stream(addr string) {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		fmt.Println(time.Now().UnixMilli(), "no connection:", err)
		os.Exit(1)
	}
	b := make([]byte, 1)
	fmt.Println(time.Now().UnixMilli(), "connected")
	for n := 0; ; n++ {
		c.SetDeadline(time.Now().Add(2 * time.Second))
		if _, err = c.Write([]byte("E")); err == nil {
			_, err = io.ReadFull(c, b)
		}
		if err != nil {
			fmt.Println(time.Now().UnixMilli(), "ended after", n, "echoes:", err)
			return
		}
		if n%100 == 0 {
			fmt.Println(time.Now().UnixMilli(), "moving", n)
		}
		time.Sleep(10 * time.Millisecond)
	}
}
