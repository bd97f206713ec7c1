package main

// This file is the verbs about the configuration: gen-config writes one with
// every key in it, check-config shows what would hold and why.

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"text/tabwriter"
)

// configFileText is a file with every key, its default and what it is for.
func configFileText() string {
	var b strings.Builder
	b.WriteString("# Settings of sessio -device. Each key has its default here: keep only those you change.\n")
	b.WriteString("# Flags go before the environment, that before this file. sessio check-config shows what holds.\n")
	c := defaultServerConfig()
	var open []string // sections that the last key stood in
	for _, key := range configKeys {
		path := strings.Split(key.name, ".")
		sections := path[:len(path)-1]
		same := 0
		for same < len(sections) && same < len(open) && sections[same] == open[same] {
			same++
		}
		if same == 0 {
			b.WriteString("\n")
		}
		for i := same; i < len(sections); i++ {
			b.WriteString(strings.Repeat("  ", i) + sections[i] + ":\n")
		}
		open = sections
		indent := strings.Repeat("  ", len(sections))
		help := strings.ToUpper(key.help[:1]) + key.help[1:]
		if key.env != "" {
			help += " (SESSIO_" + key.env + ")"
		}
		fmt.Fprintf(&b, "%s# %s.\n", indent, help)
		value := key.get(c)
		if value == "" { // no value says what the default is
			indent += "# "
			value = "3600"
		}
		fmt.Fprintf(&b, "%s%s: %s\n", indent, path[len(path)-1], value)
	}
	return b.String()
}

func genConfigVerb() verb {
	return verb{name: "gen-config", usage: "[-o FILE]", summary: "a configuration for -device with every key, its default and what it is for", bare: true, setup: func(f *flag.FlagSet) verbRun {
		file := f.String("o", "", "write it to a `file` that is not there yet")
		return func(_ context.Context, p *program, _ operands) error {
			if *file == "" {
				_, err := p.out.WriteString(configFileText())
				return err
			}
			if _, err := os.Lstat(*file); !errors.Is(err, fs.ErrNotExist) {
				if err == nil {
					err = fmt.Errorf("%s is there already", *file)
				}
				return fmt.Errorf("writing a configuration: %w", err)
			}
			return replaceFile(*file, []byte(configFileText()), 0o600)
		}
	}}
}

// configFlags are the flags that settings may come by.
type configFlags struct {
	file string
	list []configFlag
}

func (c *configFlags) declare(f *flag.FlagSet) {
	f.StringVar(&c.file, "config", "", "device: settings in a `file` (default sessio.yaml in the state directory, else "+systemConfig+")")
	f.StringVar(&c.file, "c", "", "device: short for -config `file`")
	for name, key := range map[string]string{"p": "server.port", "b": "server.bind_address"} {
		f.Func(name, "device: short for -set "+key+"=`value`", func(v string) error {
			c.list = append(c.list, configFlag{"-" + name, key, v})
			return nil
		})
	}
	f.Func("set", "device: any key of the configuration, `key=value`", func(v string) error {
		key, value, ok := strings.Cut(v, "=")
		if !ok {
			return errors.New("not KEY=VALUE")
		}
		c.list = append(c.list, configFlag{"-set", key, value})
		return nil
	})
}

// source is where settings come from.
func (c *configFlags) source(dir string) configSource {
	return configSource{dir: dir, file: c.file, getenv: os.Getenv, flags: c.list}
}

func checkConfigVerb() verb {
	return verb{name: "check-config", usage: "[-config F | -c F] [-p PORT] [-b ADDR] [-set KEY=VALUE]… [-explain OP USER PATH]", summary: "the settings that -device would have, and where each comes from; or what the filter says of a path", setup: func(f *flag.FlagSet) verbRun {
		dir := dirFlag(f)
		var flags configFlags
		flags.declare(f)
		explain := f.String("explain", "", "say what the filter decides about `OP`, as upload, by USER on PATH, as clients see it, and why")
		return func(_ context.Context, p *program, o operands) error {
			ask, err := explainAsk(*explain, o)
			if err != nil {
				return err
			}
			path, err := dir.path()
			if err != nil {
				return err
			}
			l, err := flags.source(path).load()
			if err != nil {
				return p.sayConfigErrors(err)
			}
			for _, w := range l.warnings {
				fmt.Fprintf(p.err, "warning: %s\n", printable(w))
			}
			if *explain != "" {
				return p.explainFilter(l, ask)
			}
			return p.showConfig(l)
		}
	}}
}

// sayConfigErrors tells each by itself.
func (p *program) sayConfigErrors(err error) error {
	all := []error{err}
	if many, ok := err.(interface{ Unwrap() []error }); ok {
		all = many.Unwrap()
	}
	for _, err := range all {
		sayError(p.err, "sessio", err)
	}
	return &exitError{status: 1}
}

func (p *program) showConfig(l loadedConfig) error {
	w := tabwriter.NewWriter(p.out, 0, 8, 2, ' ', 0)
	for _, key := range configKeys {
		value, from := key.get(l.serverConfig), l.from[key.name]
		if value == "" {
			value = "not set"
		}
		if from == "" {
			from = "default"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\n", key.name, printable(value), printable(from))
	}
	return w.Flush()
}

// explainAsk is what -explain OP USER PATH asks; without it there is no word.
func explainAsk(op string, o operands) (a filterAsk, err error) {
	words := o.all()
	switch {
	case op == "":
		return a, o.none()
	case !slices.Contains(filterOps, op):
		return a, usageError("%q is no operation; there are: %s", op, strings.Join(filterOps, ", "))
	case len(words) != 2:
		return a, usageError("-explain takes OP USER PATH")
	case !path.IsAbs(words[1]):
		return a, usageError("%q is not an absolute path", words[1])
	}
	return filterAsk{op: filterOp(op), user: words[0], seen: path.Clean(words[1]), size: -1}, nil
}

// explainFilter says which rule decides. It looks at no file.
func (p *program) explainFilter(l loadedConfig, a filterAsk) error {
	if l.sftpRoot != "" {
		a.resolved = path.Join(l.sftpRoot, a.seen)
	}
	v := l.filter.judge(a)
	fmt.Fprintf(p.out, "%s of %s by %s: %s\n", a.op, printable(a.seen), printable(a.user), v.action)
	if l.filter == nil {
		_, err := fmt.Fprintln(p.out, "filter.enabled is false: all is allowed")
		return err
	}
	for _, file := range []string{a.seen, a.resolved} {
		if file == "" {
			continue
		}
		on, rule := l.filter.first(a, file)
		why := "no rule matches: filter.default_action"
		if rule != nil {
			why = fmt.Sprintf("rule %q, the first that matches: %s", rule.name, rule.written)
		}
		fmt.Fprintf(p.out, "  as %s: %s, %s\n", printable(file), on.action, printable(why))
	}
	if a.resolved != "" {
		fmt.Fprintln(p.out, "the path that clients see and the one below sftp.root are both judged: the stricter verdict holds")
	}
	if v.bySize {
		fmt.Fprintln(p.out, "no size is known here: the size of the file may decide otherwise")
	}
	_, err := fmt.Fprintln(p.out, "symlinks are not resolved here: the server judges where they lead as well")
	return err
}
