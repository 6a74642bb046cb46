package pypi

import (
	"regexp"
	"strings"
)

var (
	separators = regexp.MustCompile(`[-_.]+`)
	goodName   = regexp.MustCompile(`(?i)^[a-z0-9](?:[a-z0-9._-]*[a-z0-9])?$`)
)

// ValidName reports whether a project may be called so (PEP 508).
func ValidName(name string) bool { return len(name) <= 200 && goodName.MatchString(name) }

// Normalize gives the one spelling of a project's name (PEP 503): Zope.Interface
// and zope_interface are zope-interface.
func Normalize(name string) string {
	return strings.ToLower(separators.ReplaceAllString(name, "-"))
}
