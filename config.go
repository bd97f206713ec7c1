package main

// This file is what the SSH server of a device is told: its settings, as they
// hold while it runs, and their defaults.

import (
	"net/netip"
	"time"
)

// A serverConfig is the settings in force. Nothing changes it once it is made:
// a reload makes another. Durations and counts of 0 mean "no limit" where the
// comment says so.
type serverConfig struct {
	bindAddress    netip.Addr    // of the TCP port
	port           int           // 0: no TCP port
	hostKeys       []string      // files of the TCP port's keys; none: the identity
	banner         string        // file that is sent before the login; "" none
	maxConnections int           // at once, logged in or not
	grace          time.Duration // for the login; 0 none
	keepalive      time.Duration // on the TCP port; 0 none

	methods     []string // of publickey, password
	keysDir     string   // DIR/USER/authorized_keys; "" where keysPattern or the default is used
	keysPattern string   // absolute, {user} stands for the login; "" likewise
	usersFile   string
	users       []configUser // of usersFile too

	permitUserEnv bool // whether environment= in a line of keys is obeyed

	shell           string   // for users whose entry names none; "" is their own
	env             []string // NAME=value
	commandTimeout  time.Duration
	acceptEnv       []string // globs
	allowedCommands []string // argv[0]; nil any

	forwardLocal, forwardRemote, forwardAgent, forwardStreamlocal bool
	permit                                                        []string // host:port globs; nil any

	sftpEnabled bool
	sftpRoot    string // "" the whole file system
	scpEnabled  bool
	scpRoot     string      // "" as sftpRoot
	scpMaxSize  int64       // bytes of a file; 0 none
	filter      *fileFilter // nil allows all: filterWritten once it is enabled

	filterEnabled bool
	filterWritten fileFilter

	auditEnabled  bool
	exporters     []auditExporter
	exporterLines []int // of the file, for what is wrong with them

	maxAuthAttempts             int
	authWindow, banTime         time.Duration
	whitelist, allowed, blocked []netip.Prefix
	maxSessionsPerUser          int
	idlePort, idleLink          time.Duration // no channel data either way; 0 none
	sessionTimeout              time.Duration // of a connection; 0 none

	sessionTTL time.Duration // 0 without end
	hold       time.Duration // how long a link lives without a path
}

// A configUser is a login with a password: one that passwd knows, or one that
// has uid and gid here.
type configUser struct {
	name, passwordHash string
	shell, home        string   // "" as passwd says
	env                []string // NAME=value
	uid, gid           uint32
	hasID              bool // uid and gid are given

	file string // where it stands; "" in the configuration itself
	line int
}

const (
	// sessionTTL is the life of a session; the device called may shorten it.
	sessionTTL = 24 * time.Hour
	// defaultHold is how long a link lives without a path.
	defaultHold = 24 * time.Hour
	// maxSeconds is a hundred years: more is cut to it, so that no sum overflows.
	maxSeconds = 100 * 365 * 24 * 3600
)

func defaultServerConfig() *serverConfig {
	return &serverConfig{
		bindAddress:        netip.IPv4Unspecified(),
		maxConnections:     100,
		grace:              300 * time.Second,
		keepalive:          60 * time.Second,
		methods:            []string{"publickey"},
		acceptEnv:          []string{"LANG", "LC_*", "TERM", "COLORTERM"},
		forwardLocal:       true,
		sftpEnabled:        true,
		scpEnabled:         true,
		scpMaxSize:         10 << 30,
		maxAuthAttempts:    5,
		authWindow:         300 * time.Second,
		banTime:            300 * time.Second,
		maxSessionsPerUser: 10,
		idlePort:           time.Hour,
		sessionTTL:         sessionTTL,
		hold:               defaultHold,
	}
}
