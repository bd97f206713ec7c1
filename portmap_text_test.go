package main

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

var (
	testRouter   = netip.MustParseAddr("192.168.1.1")
	testPlace    = upnpURL{netip.MustParseAddrPort("192.168.1.1:5000"), "/igd/root.xml"}
	testControl  = upnpURL{netip.MustParseAddrPort("192.168.1.1:5000"), "/ctl/IPConn"}
	testService1 = upnpService{"urn:schemas-upnp-org:service:WANIPConnection:1", testControl}
)

func searchAnswer(location string) string {
	return "HTTP/1.1 200 OK\r\nCACHE-CONTROL: max-age=120\r\nST: upnp:rootdevice\r\nEXT:\r\nLocation: " + location + "\r\n\r\n"
}

func TestUPnPSearchAnswers(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{searchAnswer("http://192.168.1.1:5000/rootDesc.xml"), "192.168.1.1:5000/rootDesc.xml"},
		{searchAnswer("http://192.168.1.1"), "192.168.1.1:80/"},
		{"HTTP/1.0 200 OK\nLOCATION:http://192.168.1.1:1/a b\n", ""},
		{searchAnswer("http://192.168.1.9:5000/rootDesc.xml"), ""},
		{searchAnswer("http://router.lan/rootDesc.xml"), ""},
		{searchAnswer("http://192.168.1.1:0/"), ""},
		{searchAnswer("http://192.168.1.1:80@10.0.0.1/"), ""},
		{searchAnswer("http://[::ffff:192.168.1.1]:80/"), ""},
		{searchAnswer("https://192.168.1.1/"), "192.168.1.1:80/https://192.168.1.1/"}, // it is the router's all the same
		{searchAnswer("http://192.168.1.1/a\rb"), ""},
		{searchAnswer("http://192.168.1.1/" + strings.Repeat("a", 1024)), ""},
		{searchAnswer(""), ""},
		{"HTTP/1.1 200 OK\r\n\r\n", ""},
		{strings.Replace(searchAnswer("http://192.168.1.1/"), "200", "404", 1), ""},
		{"M-SEARCH * HTTP/1.1\r\nLocation: http://192.168.1.1/\r\n\r\n", ""},
		{"NOTIFY * HTTP/1.1\r\nLocation: http://192.168.1.1/\r\n\r\n", ""},
		{"", ""},
	} {
		at, err := parseSearchAnswer([]byte(c.text), testRouter)
		got := at.path
		if err == nil {
			got = at.host.String() + at.path
		}
		if got != c.want || (err == nil) != (c.want != "") {
			t.Errorf("%q: %q, %v", c.text, got, err)
		}
	}
}

func TestUPnPRelativeAddresses(t *testing.T) {
	for ref, want := range map[string]string{"/ctl": "192.168.1.1:5000/ctl", "ctl?a=1": "192.168.1.1:5000/igd/ctl?a=1",
		"http://192.168.1.1:81/x": "192.168.1.1:81/x", "http://192.168.1.1?x": "", "": "", "http://": "", "/a b": "", "/\x7f": "", "//10.0.0.1/x": "192.168.1.1:5000//10.0.0.1/x"} {
		at, err := testPlace.parse(ref)
		got := ""
		if err == nil {
			got = at.host.String() + at.path
		}
		if got != want {
			t.Errorf("%q: %q, %v", ref, got, err)
		}
	}
}

func TestUPnPRequests(t *testing.T) {
	if got, want := string(appendSearch(nil, upnpSearches[2])),
		"M-SEARCH * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\nMAN: \"ssdp:discover\"\r\nMX: 1\r\nST: upnp:rootdevice\r\n\r\n"; got != want {
		t.Errorf("search: %q", got)
	}
	if got, want := string(appendGet(nil, testPlace)), "GET /igd/root.xml HTTP/1.1\r\nHost: 192.168.1.1:5000\r\nConnection: close\r\n\r\n"; got != want {
		t.Errorf("get: %q", got)
	}
	u := upnpAsker{router: portRouter{testRouter, testPortSelf}, port: 7722, want: 40000, service: testService1}
	body := "<?xml version=\"1.0\"?>\r\n<s:Envelope xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\" s:encodingStyle=\"http://schemas.xmlsoap.org/soap/encoding/\">" +
		"<s:Body><u:AddPortMapping xmlns:u=\"urn:schemas-upnp-org:service:WANIPConnection:1\"><NewRemoteHost></NewRemoteHost><NewExternalPort>40000</NewExternalPort>" +
		"<NewProtocol>UDP</NewProtocol><NewInternalPort>7722</NewInternalPort><NewInternalClient>192.168.1.2</NewInternalClient><NewEnabled>1</NewEnabled>" +
		"<NewPortMappingDescription>sessio</NewPortMappingDescription><NewLeaseDuration>7200</NewLeaseDuration></u:AddPortMapping></s:Body></s:Envelope>"
	want := fmt.Sprintf("POST /ctl/IPConn HTTP/1.1\r\nHost: 192.168.1.1:5000\r\nContent-Type: text/xml; charset=\"utf-8\"\r\nContent-Length: %d\r\n"+
		"SOAPAction: \"urn:schemas-upnp-org:service:WANIPConnection:1#AddPortMapping\"\r\nConnection: close\r\n\r\n%s", len(body), body)
	if got := string(appendSOAP(nil, testService1, "AddPortMapping", u.mapping(defaultPortTimes.life)...)); got != want {
		t.Errorf("soap: %q", got)
	}
}

func TestReadHTTP(t *testing.T) {
	big := strings.Repeat("x", maxUPnP)
	for _, c := range []struct {
		name, text string
		status     int
		body       string
		bad        bool
	}{
		{"a length", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcdef", 200, "abc", false},
		{"to the end", "HTTP/1.0 500 Internal Server Error\nServer: x\n\nabc", 500, "abc", false},
		{"chunks", "HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n3;x=y\r\nabc\r\n02\r\nde\r\n0\r\n\r\n", 200, "abcde", false},
		{"cut", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc", 200, "", true},
		{"a chunk cut", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nabc", 200, "", true},
		{"no last chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", 200, "", true},
		{"a chunk of no number", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n", 200, "", true},
		{"a chunk too long", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n7fffffff\r\n" + big, 200, "", true},
		{"a length too long", "HTTP/1.1 200 OK\r\nContent-Length: 65537\r\n\r\n" + big + "xx", 200, "", true},
		{"a negative length", "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", 200, "", true},
		{"head without end", "HTTP/1.1 200 OK\r\n" + strings.Repeat("A: b\r\n", maxUPnP/6), 200, "", true},
		{"a line without end", "HTTP/1.1 200 OK" + big, 200, "", true},
		{"another protocol", "SSH-2.0-x\r\n\r\n", 0, "", true},
		{"nothing", "", 0, "", true},
	} {
		status, body, err := readHTTP(strings.NewReader(c.text))
		if (err != nil) != c.bad || err == nil && (status != c.status || string(body) != c.body) {
			t.Errorf("%s: %d %.50q, %v", c.name, status, body, err)
		}
	}
	if _, body, _ := readHTTP(io.MultiReader(strings.NewReader("HTTP/1.1 200 OK\r\n\r\n"), endless{})); len(body) > maxUPnP {
		t.Errorf("%d bytes were read", len(body))
	}
}

type endless struct{}

func (endless) Read(b []byte) (int, error) { return len(b), nil }

func describe(base string, services ...upnpService) string {
	escape := strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;")
	var b strings.Builder
	b.WriteString("<?xml version=\"1.0\"?>\n<root xmlns=\"urn:schemas-upnp-org:device-1-0\"><specVersion><major>1</major></specVersion>" + base + "<device><serviceList>")
	for _, s := range services {
		fmt.Fprintf(&b, "<service>\n <serviceType>%s</serviceType>\n <controlURL> http://%v%s </controlURL><eventSubURL/></service>", s.kind, s.control.host, escape.Replace(s.control.path))
	}
	return b.String() + "</serviceList></device></root>"
}

func TestUPnPDescriptions(t *testing.T) {
	ip2 := upnpService{upnpWANIP2, testControl}
	ppp := upnpService{upnpServices[2], testControl}
	other := upnpService{"urn:schemas-upnp-org:service:Layer3Forwarding:1", testControl}
	away := upnpService{testService1.kind, upnpURL{netip.MustParseAddrPort("10.0.0.1:80"), "/ctl"}}
	amp := upnpService{testService1.kind, upnpURL{testControl.host, "/c?a&lt;"}}
	for _, c := range []struct {
		name, doc string
		want      []upnpService
	}{
		{"one", describe("", other, testService1), []upnpService{testService1}},
		{"the best first", describe("", ppp, testService1, ip2), []upnpService{ip2, testService1, ppp}},
		{"at another host", describe("", away), nil},
		{"escapes", describe("", amp), []upnpService{amp}},
		{"many", describe("", slices.Repeat([]upnpService{testService1}, 9)...), slices.Repeat([]upnpService{testService1}, maxUPnPServices)},
		{"a base", strings.Replace(describe("<URLBase>http://192.168.1.1:99/b/c</URLBase>", testService1), "http://192.168.1.1:5000/ctl/IPConn", "x", 1),
			[]upnpService{{testService1.kind, upnpURL{netip.MustParseAddrPort("192.168.1.1:99"), "/b/x"}}}},
		{"a base elsewhere", strings.Replace(describe("<URLBase>http://10.0.0.1/</URLBase>", testService1), "http://192.168.1.1:5000/ctl/IPConn", "x", 1),
			[]upnpService{{testService1.kind, upnpURL{testPlace.host, "/igd/x"}}}},
		{"prefixes, attributes, comments", "<a:root><!-- <service> --><d:service id='1'><s:controlURL\n x='y'>/ctl/IPConn" + `</s:controlURL><s:serviceType>` +
			testService1.kind + `</s:serviceType></d:service ></a:root>`, []upnpService{testService1}},
		{"a type without a place", `<service><serviceType>` + testService1.kind + `</serviceType></service><service><controlURL>/x</controlURL></service>`, nil},
		{"no end", `<service><serviceType>` + testService1.kind + `</serviceType><controlURL>/x</controlURL></service`, nil},
		{"a comment without end", `<!-- <service>`, nil},
		{"nothing", "", nil},
	} {
		if got := parseDescription([]byte(c.doc), testPlace); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}

func soapFault(code int, text string) string {
	return fmt.Sprintf(`<s:Envelope><s:Body><s:Fault><faultcode>s:Client</faultcode><detail><UPnPError xmlns="urn:schemas-upnp-org:control-1-0">`+
		`<errorCode>%d</errorCode><errorDescription>%s</errorDescription></UPnPError></detail></s:Fault></s:Body></s:Envelope>`, code, text)
}

func soapValue(name, value string) string {
	return "<s:Envelope><s:Body><u:R><" + name + ">" + strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;").Replace(value) + "</" + name + "></u:R></s:Body></s:Envelope>"
}

func TestSOAPReplies(t *testing.T) {
	if got, err := parseSOAP(200, []byte(soapValue("NewExternalIPAddress", "198.51.100.7")), "NewExternalIPAddress"); err != nil || got != "198.51.100.7" {
		t.Errorf("%q, %v", got, err)
	}
	for _, code := range []int{402, 718, 725} {
		_, err := parseSOAP(500, []byte(soapFault(code, "Some\x1b[31mReason"+strings.Repeat("x", 100))), "")
		f := (*upnpFault)(nil)
		if !errors.As(err, &f) || f.code != code || strings.Contains(f.text, "\x1b") || len(f.text) > 100 {
			t.Errorf("%d: %v", code, err)
		}
	}
	for _, c := range []struct {
		status int
		body   string
	}{{500, ""}, {401, "<html>log in</html>"}, {200, soapFault(501, "")}, {500, soapFault(99999, "")}} {
		if _, err := parseSOAP(c.status, []byte(c.body), "x"); err == nil {
			t.Errorf("%d %s is taken for a success", c.status, c.body)
		}
	}
}

func FuzzParseSearchAnswer(f *testing.F) {
	f.Add(searchAnswer("http://192.168.1.1:5000/rootDesc.xml"))
	f.Fuzz(func(t *testing.T, text string) {
		at, err := parseSearchAnswer([]byte(text), testRouter)
		if err != nil {
			return
		}
		if at.host.Addr() != testRouter || at.host.Port() == 0 {
			t.Fatalf("leads to %v", at)
		}
		if again, err := parseSearchAnswer([]byte(searchAnswer("http://"+at.host.String()+at.path)), testRouter); err != nil || again != at {
			t.Fatalf("%v came back as %v, %v", at, again, err)
		}
	})
}

func FuzzReadHTTP(f *testing.F) {
	f.Add("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcdef")
	f.Add("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")
	f.Fuzz(func(t *testing.T, text string) {
		status, body, err := readHTTP(strings.NewReader(text))
		if err != nil || len(body) > maxUPnP/2 {
			return
		}
		s, b, err := readHTTP(strings.NewReader(fmt.Sprintf("HTTP/1.1 %d\r\nContent-Length: %d\r\n\r\n%s", status, len(body), body)))
		if err != nil || s != status || string(b) != string(body) {
			t.Fatalf("%d %q came back as %d %q, %v", status, body, s, b, err)
		}
	})
}

func FuzzParseDescription(f *testing.F) {
	f.Add(describe("<URLBase>http://192.168.1.1:99/b/c</URLBase>", upnpService{upnpWANIP2, testControl}, testService1))
	f.Fuzz(func(t *testing.T, doc string) {
		found := parseDescription([]byte(doc), testPlace)
		for _, s := range found {
			if s.control.host.Addr() != testRouter || !slices.Contains(upnpServices, s.kind) {
				t.Fatalf("leads to %v", s)
			}
		}
		if again := parseDescription([]byte(describe("", found...)), testPlace); !slices.Equal(again, found) {
			t.Fatalf("%v came back as %v", found, again)
		}
	})
}

func FuzzParseSOAP(f *testing.F) {
	f.Add(200, soapValue("NewReservedPort", "7722"))
	f.Add(500, soapFault(718, "ConflictInMappingEntry"))
	f.Fuzz(func(t *testing.T, status int, body string) {
		value, err := parseSOAP(status, []byte(body), "NewReservedPort")
		if fault := (*upnpFault)(nil); errors.As(err, &fault) {
			if _, err := parseSOAP(500, []byte(soapFault(fault.code, "")), ""); !errors.As(err, &fault) {
				t.Fatalf("%d came back as %v", fault.code, err)
			}
		}
		if err != nil {
			return
		}
		if again, err := parseSOAP(200, []byte(soapValue("NewReservedPort", value)), "NewReservedPort"); err != nil || again != value {
			t.Fatalf("%q came back as %q, %v", value, again, err)
		}
	})
}
