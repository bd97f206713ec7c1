// Package pkgsftp holds the version of github.com/pkg/sftp whose own tests are
// run against sessio (TestJudgeFilesPkgSFTP).
package pkgsftp

import _ "github.com/pkg/sftp"
