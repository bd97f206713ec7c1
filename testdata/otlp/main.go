// Command otlp is the collector of the tests: OTLP as gRPC's and
// OpenTelemetry's own code has it, over gRPC and as JSON over HTTP.
//
// Argument: a directory; into it goes cert.pem, which its TLS is to be checked
// with. It prints its addresses in a line, those of gRPC, gRPC with TLS, HTTP
// and HTTPS, then each record that it takes, as a line of JSON. It reads a
// command a line from standard input, answers each with "ok" or "error: …"
// between the records, and ends when the input does.
//
//	refuse CODE N    answer the next N requests with that status, of gRPC or HTTP
//	reject N         say in the next answer that N records were rejected
//	hold             answer nothing
//	release          answer what was held, and all else
//	requests         "ok N": requests so far
package main

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	mrand "math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "otlp:", err)
		os.Exit(1)
	}
}

// A receiver takes records and does what it is told.
type receiver struct {
	collector.UnimplementedLogsServiceServer

	mu       sync.Mutex // guards all, and standard output
	code     int
	refusals int
	reject   int64
	requests int
	held     chan struct{} // closed when released; nil: nothing is held
}

// A record is what is printed of one.
type record struct {
	Via        string         `json:"via"`
	Resource   map[string]any `json:"resource"`
	Scope      string         `json:"scope"`
	Time       uint64         `json:"time"`
	Observed   uint64         `json:"observed"`
	Severity   string         `json:"severity"`
	Number     int32          `json:"number"`
	Body       string         `json:"body"`
	Event      string         `json:"event"`
	Attributes map[string]any `json:"attributes"`
}

func run() error {
	if len(os.Args) != 2 {
		return errors.New("usage: otlp DIR")
	}
	var plain, safe [2]net.Listener // of gRPC and HTTP
	for _, lns := range []*[2]net.Listener{&plain, &safe} {
		if err := listen(lns); err != nil {
			return err
		}
	}
	config, err := certificate(filepath.Join(os.Args[1], "cert.pem"), safe[0].Addr().(*net.TCPAddr).IP)
	if err != nil {
		return err
	}
	r := &receiver{}
	serve := func(ln net.Listener, opts ...grpc.ServerOption) {
		s := grpc.NewServer(append(opts, grpc.InitialWindowSize(64<<10), grpc.MaxRecvMsgSize(64<<20))...)
		collector.RegisterLogsServiceServer(s, r)
		go s.Serve(ln)
	}
	serve(plain[0])
	serve(safe[0], grpc.Creds(credentials.NewTLS(config)))
	go http.Serve(plain[1], r)
	go http.Serve(tls.NewListener(safe[1], &tls.Config{Certificates: config.Certificates}), r)
	addrs := []string{plain[0].Addr().String(), safe[0].Addr().String(), plain[1].Addr().String(), safe[1].Addr().String()}
	fmt.Println(strings.Join(addrs, " "))
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		said, err := r.command(in.Text())
		if err != nil {
			said = "error: " + err.Error()
		}
		r.mu.Lock()
		fmt.Println(said)
		r.mu.Unlock()
	}
	return nil
}

// listen finds an address of loopback where nobody has gRPC's port yet.
func listen(lns *[2]net.Listener) (err error) {
	for range 100 {
		ip := net.IPv4(127, byte(1+mrand.N(200)), byte(mrand.N(256)), byte(1+mrand.N(200)))
		if lns[0], err = net.ListenTCP("tcp", &net.TCPAddr{IP: ip, Port: 4317}); err == nil {
			lns[1], err = net.ListenTCP("tcp", &net.TCPAddr{IP: ip})
			return err
		}
	}
	return err
}

func (r *receiver) command(line string) (said string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	word, args, _ := strings.Cut(line, " ")
	switch said = "ok"; word {
	case "refuse":
		_, err = fmt.Sscan(args, &r.code, &r.refusals)
	case "reject":
		_, err = fmt.Sscan(args, &r.reject)
	case "hold":
		r.held = make(chan struct{})
	case "release":
		close(r.held)
		r.held = nil
	case "requests":
		said = fmt.Sprint("ok ", r.requests)
	default:
		err = fmt.Errorf("unknown command %q", word)
	}
	return said, err
}

// take prints the records of a request, or returns the status to refuse it by.
func (r *receiver) take(ctx context.Context, via string, req *collector.ExportLogsServiceRequest) (*collector.ExportLogsServiceResponse, int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.requests++
	if held := r.held; held != nil {
		r.mu.Unlock()
		select {
		case <-held:
		case <-ctx.Done():
		}
		r.mu.Lock()
	}
	if r.refusals > 0 {
		r.refusals--
		return nil, r.code
	}
	for _, of := range req.ResourceLogs {
		for _, in := range of.ScopeLogs {
			for _, l := range in.LogRecords {
				line, err := json.Marshal(record{via, values(of.Resource.Attributes), in.Scope.Name, l.TimeUnixNano, l.ObservedTimeUnixNano,
					l.SeverityText, int32(l.SeverityNumber), l.Body.GetStringValue(), l.EventName, values(l.Attributes)})
				if err != nil {
					panic(err)
				}
				fmt.Println(string(line))
			}
		}
	}
	res := &collector.ExportLogsServiceResponse{}
	if r.reject > 0 {
		res.PartialSuccess = &collector.ExportLogsPartialSuccess{RejectedLogRecords: r.reject, ErrorMessage: "told so"}
		r.reject = 0
	}
	return res, 0
}

func values(list []*common.KeyValue) map[string]any {
	m := map[string]any{}
	for _, kv := range list {
		switch v := kv.Value.Value.(type) {
		case *common.AnyValue_StringValue:
			m[kv.Key] = v.StringValue
		case *common.AnyValue_IntValue:
			m[kv.Key] = v.IntValue
		default:
			m[kv.Key] = fmt.Sprintf("a %T", v)
		}
	}
	return m
}

// Export is gRPC's.
func (r *receiver) Export(ctx context.Context, req *collector.ExportLogsServiceRequest) (*collector.ExportLogsServiceResponse, error) {
	res, code := r.take(ctx, "grpc", req)
	if code != 0 {
		return nil, status.Error(codes.Code(code), "told so")
	}
	return res, nil
}

// ServeHTTP is OTLP/HTTP's, in JSON.
func (r *receiver) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	body, err := io.ReadAll(q.Body)
	req := &collector.ExportLogsServiceRequest{}
	switch {
	case q.Method != http.MethodPost || q.Header.Get("Content-Type") != "application/json":
		http.Error(w, "not a POST of JSON", http.StatusUnsupportedMediaType)
		return
	case err == nil:
		err = protojson.Unmarshal(body, req) // refuses what the protocol does not have
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	res, code := r.take(q.Context(), q.URL.Path, req)
	if code != 0 {
		http.Error(w, "told so", code)
		return
	}
	answer, err := protojson.Marshal(res)
	if err != nil {
		panic(err)
	}
	w.Header().Set("Content-Type", "application/json")
	w.Write(answer)
}

// certificate makes one for an address and writes it to file.
func certificate(file string, ip net.IP) (*tls.Config, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	cert := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(10, 0, 0),
		IPAddresses: []net.IP{ip}, BasicConstraintsValid: true, IsCA: true}
	der, err := x509.CreateCertificate(rand.Reader, cert, cert, key.Public(), key)
	if err != nil {
		return nil, err
	}
	config := &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	return config, os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600)
}
