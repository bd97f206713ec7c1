package main

// This file is the keys of the configuration about files: SFTP, SCP and the
// filter, what is checked of them as a whole, and what goes round them.

import (
	"fmt"
	"math"
	"os"
	"strconv"
)

// configFileKeys are part of configKeys.
var configFileKeys = []configKey{
	boolKey("sftp.enabled", "whether SFTP is served", func(c *serverConfig) *bool { return &c.sftpEnabled }),
	textKey("sftp.root", "", "directory that SFTP clients see as /; no way leads out of it; none: the whole file system", emptyOr(checkPath), func(c *serverConfig) *string { return &c.sftpRoot }),
	boolKey("scp.enabled", "whether SCP is served", func(c *serverConfig) *bool { return &c.scpEnabled }),
	textKey("scp.root", "", "the same for SCP; none: that of SFTP", emptyOr(checkPath), func(c *serverConfig) *string { return &c.scpRoot }),
	{"scp.max_size", "", configPlain, "bytes of the largest file that SCP takes, 0 any", setMaxSize, func(c *serverConfig) string { return strconv.FormatInt(c.scpMaxSize, 10) }},

	boolKey("filter.enabled", "whether the rules below are obeyed", func(c *serverConfig) *bool { return &c.filterEnabled }),
	{"filter.default_action", "", configPlain, "allow, deny or log (allow, and leave a record): for what no rule matches", func(c *serverConfig, n yamlNode) error { return c.filterWritten.setDefault(n) }, func(c *serverConfig) string { return c.filterWritten.byDefault.String() }},
	{"filter.rules", "", configOther, "a list of rules for SFTP and SCP, the first that matches decides: name, action, one or more of pattern, path_prefix, extensions, directory, min_size, max_size, composite, not, and if wanted operations, users", func(c *serverConfig, n yamlNode) error { return c.filterWritten.setRules(n) }, getFilterRules},
}

func setMaxSize(c *serverConfig, n yamlNode) error {
	v, ok := n.int()
	if !ok || v < 0 {
		return fmt.Errorf("%s is not a whole number of bytes from 0 to %d", n, int64(math.MaxInt64))
	}
	c.scpMaxSize = v
	return nil
}

func getFilterRules(c *serverConfig) string {
	if c.filterWritten.written == "" {
		return "[]"
	}
	return c.filterWritten.written
}

// checkFiles puts the filter in force, judges roots, and warns of what does
// less than it seems to.
func (l *loadedConfig) checkFiles(fail func(key string, err error)) {
	for _, root := range []struct{ key, dir string }{{"sftp.root", l.sftpRoot}, {"scp.root", l.scpRoot}} {
		if root.dir != "" {
			fail(root.key, checkDirectory(root.dir))
		}
	}
	bounds := []string{}
	if l.sftpRoot != "" && l.sftpEnabled {
		bounds = append(bounds, "sftp.root")
	}
	if l.scpRoot != "" && l.scpEnabled {
		bounds = append(bounds, "scp.root")
	}
	written := &l.filterWritten
	if l.filterEnabled {
		l.filter = written
		l.warnings = append(l.warnings, written.unreached()...)
		bounds = append(bounds, "filter")
		if len(written.rules) == 0 && written.byDefault == filterAllow {
			l.warn("filter.enabled is true, and filter.rules has none")
		}
	} else if len(written.rules) > 0 {
		l.warn("filter.rules has rules, and filter.enabled is false: all is allowed")
	}
	for _, bound := range bounds {
		if l.allowedCommands == nil {
			l.warn(bound + " binds SFTP and SCP alone: a shell or command goes round it; set shell.allowed_commands, or restrict and command= in the keys of whom it is meant for")
		}
		if l.forwardLocal && l.permit == nil {
			l.warn(bound + " binds SFTP and SCP alone: what a client reaches by -L goes round it if it serves files; set forward.local: false, or forward.permit")
		}
	}
}

func checkDirectory(dir string) error {
	st, err := os.Stat(dir)
	if err == nil && !st.IsDir() {
		err = fmt.Errorf("%s is not a directory", dir)
	}
	return err
}
