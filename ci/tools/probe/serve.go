package main

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"time"
)

// serve answers on every address: UDP with an echo; TCP by what the client says first: TLS when it begins a handshake,
// an echo when its first byte is 'E', else one HTTP answer. A host left out (":80") means both address families.
func serve(addrs []string) error {
	certificate, err := selfSigned()
	if err != nil {
		return err
	}
	secure := &tls.Config{Certificates: []tls.Certificate{certificate}}
	for _, addr := range addrs {
		l, err := net.Listen("tcp", addr)
		if err != nil {
			return err
		}
		u, err := net.ListenPacket("udp", addr)
		if err != nil {
			return err
		}
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					fmt.Fprintln(os.Stderr, err)
					time.Sleep(10 * time.Millisecond)
					continue
				}
				go answer(c, addr, secure)
			}
		}()
		go func() {
			b := make([]byte, 65535)
			for {
				// An error here is an ICMP message about an earlier answer, no reason to stop.
				if n, from, err := u.ReadFrom(b); err == nil {
					u.WriteTo(b[:n], from)
				}
			}
		}()
	}
	select {}
}

// peeked is a connection of which the first bytes were looked at.
type peeked struct {
	net.Conn
	r *bufio.Reader
}

func (p peeked) Read(b []byte) (int, error) { return p.r.Read(b) }

func answer(c net.Conn, addr string, secure *tls.Config) {
	defer c.Close()
	p := peeked{c, bufio.NewReader(c)}
	first, err := p.r.Peek(1)
	if err != nil {
		return
	}
	switch first[0] {
	case 0x16: // a TLS handshake record; what is inside has no TLS again
		if secure != nil {
			answer(tls.Server(p, secure), addr, nil)
		}
	case 'E':
		io.Copy(c, p)
	default:
		p.Read(make([]byte, 4096))
		body := "hello from " + addr + " to " + c.RemoteAddr().String() + "\n"
		head := "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s"
		fmt.Fprintf(c, head, len(body), body)
	}
}

func selfSigned() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().AddDate(10, 0, 0)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}
