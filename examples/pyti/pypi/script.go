package pypi

import (
	"regexp"
	"strings"
)

var (
	scriptName   = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,100}$`)
	scriptTarget = regexp.MustCompile(`^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$`)
)

// ConsoleScripts reads the programs of an entry_points.txt: name to
// "module:function". What is no such thing is left out.
func ConsoleScripts(text string) map[string]string {
	all := map[string]string{}
	section := ""
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "[") {
			section = strings.Trim(line, "[] ")
			continue
		}
		name, target, ok := strings.Cut(line, "=")
		if !ok || section != "console_scripts" {
			continue
		}
		target, _, _ = strings.Cut(target, "[") // extras
		name, target = strings.TrimSpace(name), strings.ReplaceAll(target, " ", "")
		if scriptName.MatchString(name) && scriptTarget.MatchString(target) {
			all[name] = target
		}
	}
	return all
}
