package bullpen_test

import (
	"go/ast"
	"go/token"
	"slices"
	"strings"
	"testing"
)

// Importing a package must do nothing, and two harnesses in one process must
// not meet in it.
func TestProductionPackagesHaveNoInitAndNoStateOfTheirOwn(t *testing.T) {
	t.Parallel()
	packages := map[string][]*source{}
	for _, s := range allSources(t) {
		if s.production() {
			packages[s.dir] = append(packages[s.dir], s)
		}
	}
	for _, files := range packages {
		known := factsOf(files)
		for _, s := range files {
			checkState(t, s, known)
		}
	}
}

// processWide are the variables that are state all the same, with the reason.
var processWide = map[string]string{
	"vm/libvirt.events": "libvirt has one event loop and one embedded driver a process, in C: this is their owner",
}

func checkState(t *testing.T, s *source, known facts) {
	t.Helper()
	for _, d := range s.file.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			if d.Recv == nil && d.Name.Name == "init" {
				t.Errorf("%s has a func init", s.set.Position(d.Pos()))
			}
		case *ast.GenDecl:
			if d.Tok != token.VAR {
				continue
			}
			for _, spec := range d.Specs {
				v := spec.(*ast.ValueSpec)
				if processWide[s.dir+"."+v.Names[0].Name] != "" {
					continue
				}
				if !constant(s, d, v, known) {
					t.Errorf("%s: var %s is state of the package, or looks like it: make it a field, a constant or a func", s.set.Position(v.Pos()), v.Names[0])
				}
			}
		}
	}
}

// immutable are funcs whose results nobody can change.
var immutable = []string{"errors.New", "fmt.Errorf", "regexp.MustCompile", "crc32.MakeTable", "strings.NewReplacer", "time.Date", "strings.Repeat", "template.Must"}

// constant reports whether a package's variable is one in name only: an
// interface assertion, embedded text, the result of a func that is known to give
// what cannot be changed, or an unexported table that nothing in the package
// writes to.
func constant(s *source, d *ast.GenDecl, v *ast.ValueSpec, known facts) bool {
	if v.Names[0].Name == "_" {
		return true
	}
	for _, name := range v.Names {
		if known.written[name.Name] {
			return false
		}
	}
	for _, doc := range []*ast.CommentGroup{d.Doc, v.Doc} {
		if doc != nil && slices.ContainsFunc(doc.List, func(c *ast.Comment) bool { return strings.HasPrefix(c.Text, "//go:embed ") }) {
			return true
		}
	}
	if len(v.Values) != len(v.Names) {
		return false
	}
	for i, value := range v.Values {
		_, alias := value.(*ast.SelectorExpr) // of another package's error
		if alias && strings.HasPrefix(v.Names[i].Name, "Err") {
			continue
		}
		if !fixed(s, value, v.Names[i].IsExported(), known) {
			return false
		}
	}
	return true
}

// fixed reports whether a value cannot be changed, or only by writing to the
// variable.
func fixed(s *source, value ast.Expr, exported bool, known facts) bool {
	switch e := value.(type) {
	case *ast.CallExpr:
		if slices.Contains(immutable, s.code(e.Fun)) {
			return true
		}
		switch f := e.Fun.(type) {
		case *ast.ArrayType: // a conversion, such as []byte("...")
			return !exported
		case *ast.FuncLit:
			return !exported && plain(f.Type)
		case *ast.Ident:
			own := known.funcs[f.Name]
			return own != nil && !exported && plain(own)
		}
		return false
	case *ast.CompositeLit:
		kind := s.code(e.Type)
		return !exported && !strings.HasPrefix(kind, "sync.") && !strings.HasPrefix(kind, "atomic.")
	case *ast.BasicLit, *ast.BinaryExpr, *ast.SelectorExpr, *ast.FuncLit:
		return !exported
	}
	return false
}

// plain reports whether a func gives one value that holds no other: text, a
// number or an array.
func plain(f *ast.FuncType) bool {
	if f.Results == nil || len(f.Results.List) != 1 {
		return false
	}
	switch t := f.Results.List[0].Type.(type) {
	case *ast.ArrayType:
		return t.Len != nil
	case *ast.Ident:
		return slices.Contains([]string{"string", "bool", "int", "int64", "uint32", "uint64", "float64"}, t.Name)
	}
	return false
}

func (s *source) code(n ast.Node) string {
	return string(s.text[s.set.Position(n.Pos()).Offset:s.set.Position(n.End()).Offset])
}

// facts are what the code of a package says about its names.
type facts struct {
	// written are the names that it assigns to, in part or as a whole, or takes
	// the address of. A local variable of the same name counts too: choose
	// another one.
	written map[string]bool
	funcs   map[string]*ast.FuncType
}

func factsOf(files []*source) facts {
	known := facts{map[string]bool{}, map[string]*ast.FuncType{}}
	names := known.written
	note := func(e ast.Expr) {
		for {
			switch x := e.(type) {
			case *ast.IndexExpr:
				e = x.X
			case *ast.SelectorExpr:
				e = x.X
			case *ast.ParenExpr:
				e = x.X
			case *ast.Ident:
				names[x.Name] = true
				return
			default:
				return
			}
		}
	}
	for _, s := range files {
		ast.Inspect(s.file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.FuncDecl:
				if n.Recv == nil {
					known.funcs[n.Name.Name] = n.Type
				}
			case *ast.AssignStmt:
				if n.Tok != token.DEFINE {
					for _, left := range n.Lhs {
						note(left)
					}
				}
			case *ast.IncDecStmt:
				note(n.X)
			case *ast.UnaryExpr:
				if n.Op == token.AND {
					note(n.X)
				}
			case *ast.CallExpr:
				if f, ok := n.Fun.(*ast.Ident); ok && len(n.Args) > 0 && (f.Name == "delete" || f.Name == "clear" || f.Name == "copy") {
					note(n.Args[0])
				}
			}
			return true
		})
	}
	return known
}

// methods that are what their interface in the standard library says.
var selfExplaining = []string{"Error", "String", "Unwrap", "LogValue", "Close", "Read", "Write", "ReadAt", "WriteAt"}

func TestEveryExportedNameIsExplained(t *testing.T) {
	t.Parallel()
	for _, s := range allSources(t) {
		if s.test() || s.nested || s.file.Name.Name == "main" {
			continue
		}
		complain := func(n ast.Node, what, name string) {
			t.Errorf("%s: %s %s has no doc comment", s.set.Position(n.Pos()), what, name)
		}
		for _, d := range s.file.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				if !d.Name.IsExported() || d.Doc != nil || d.Recv != nil && (!ast.IsExported(receiver(d)) || slices.Contains(selfExplaining, d.Name.Name)) {
					continue
				}
				complain(d, "func", d.Name.Name)
			case *ast.GenDecl:
				for _, spec := range d.Specs {
					switch spec := spec.(type) {
					case *ast.TypeSpec:
						if spec.Name.IsExported() && spec.Doc == nil && d.Doc == nil {
							complain(spec, "type", spec.Name.Name)
						}
						if i, ok := spec.Type.(*ast.InterfaceType); ok && spec.Name.IsExported() && spec.Name.Name != "TB" { // a TB is what testing.TB says
							explainedMethods(i, complain)
						}
					case *ast.ValueSpec:
						for _, name := range spec.Names {
							if name.IsExported() && spec.Doc == nil && spec.Comment == nil && d.Doc == nil {
								complain(spec, "value", name.Name)
							}
						}
					}
				}
			}
		}
	}
}

// explainedMethods wants a comment on each method of an interface, but of those
// that are so small that the type's comment explains them.
func explainedMethods(i *ast.InterfaceType, complain func(ast.Node, string, string)) {
	if len(i.Methods.List) <= 3 {
		return
	}
	for _, m := range i.Methods.List {
		if len(m.Names) > 0 && m.Names[0].IsExported() && m.Doc == nil && m.Comment == nil {
			if !slices.Contains(selfExplaining, m.Names[0].Name) {
				complain(m, "method", m.Names[0].Name)
			}
		}
	}
}

func receiver(d *ast.FuncDecl) string {
	expr := d.Recv.List[0].Type
	for {
		switch e := expr.(type) {
		case *ast.StarExpr:
			expr = e.X
		case *ast.IndexExpr:
			expr = e.X
		case *ast.IndexListExpr:
			expr = e.X
		case *ast.Ident:
			return e.Name
		default:
			return ""
		}
	}
}

// The checks above are checked: each finds what it is there for.
func TestTheStateRuleTellsStateFromConstants(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]bool{
		`var _ error = (*x)(nil)`:                                                true,
		`var ErrGone = errors.New("gone")`:                                       true,
		"//go:embed page\nvar page string":                                       true,
		`var names = [...]string{"a"}`:                                           true,
		`var magic = []byte("x")`:                                                true,
		`var ErrGone = other.ErrGone`:                                            true,
		`var Names = []string{"a"}`:                                              false,
		`var cache = map[string]int{}`:                                           true,
		`var cache = make(map[string]int)`:                                       false,
		`var count int`:                                                          false,
		`var mu sync.Mutex`:                                                      false,
		`var mu = sync.Mutex{}`:                                                  false,
		`var n = &thing{}`:                                                       false,
		`var a, b = errors.New("a"), other()`:                                    false,
		"var t = func() [2]int { return [2]int{} }()":                            true,
		"var t = func() []int { return nil }()":                                  false,
		"var t = text()\nfunc text() string { return \"\" }":                     true,
		"var t = text()\nfunc text() *int { return nil }":                        false,
		"var names = []int{1}\nfunc f() { names[0] = 2 }":                        false,
		"var names = []int{1}\nfunc f() { names = nil }":                         false,
		"var table = struct{ a []int }{}\nfunc f() { table.a[1]++ }":             false,
		"var table = map[int]int{}\nfunc f() { delete(table, 1) }":               false,
		"var table = [4]int{}\nfunc f() { g(&table) }":                           false,
		"var table = [4]int{}\nfunc f() int { other := table; return other[0] }": true,
	} {
		s := parse(t, "package p\n"+text)
		d := s.file.Decls[0].(*ast.GenDecl)
		if got := constant(s, d, d.Specs[0].(*ast.ValueSpec), factsOf([]*source{s})); got != want {
			t.Errorf("%s: constant is %v, want %v", text, got, want)
		}
	}
}
