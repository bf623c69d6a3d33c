package main

import (
	"cmp"
	"fmt"
	"go/ast"
	"go/parser"
	"go/printer"
	"go/token"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
)

// kind says where people see a text.
type kind string

const (
	help    kind = "Help of the commands"
	failure kind = "Errors"
	logged  kind = "Log messages"
	ui      kind = "Temporal UI"
	metrics kind = "Help of the metrics"
	other   kind = "Output and other texts"
)

// kinds in the order of the document.
var kinds = []kind{help, failure, logged, ui, metrics, other}

// text is one text and its place.
type text struct {
	kind  kind
	label string // a word about its place, as the field that holds it; may be empty
	file  string // from the repository's directory, with slashes
	line  int
	text  string
}

// roots are the directories of the product, in the order of the document. The commands for
// development come last.
var roots = []string{"outbox", "schema", "starter", "worker", "workflows", "activities", "internal", "localstack"}

// passed are directories whose texts only developers see.
var passed = []string{"internal/composetest", "internal/e2e", "internal/layout", "internal/testenv", "internal/tools"}

// usual is the kind of nearly all texts of some packages.
var usual = map[string]kind{"workflows": ui, "telemetry": metrics}

// collect returns the texts of the product, by the order of the roots, by file and by line.
// A package that is missing is an error, because a document without it would look complete.
func collect(repository fs.FS) ([]text, error) {
	var texts []text
	for _, root := range roots {
		packages := map[string][]string{}
		err := fs.WalkDir(repository, root, func(name string, d fs.DirEntry, err error) error {
			switch {
			case err != nil:
				return err
			case d.IsDir() && (slices.Contains(passed, name) || d.Name() == "testdata"):
				return fs.SkipDir
			case path.Ext(name) == ".go" && !strings.HasSuffix(name, "_test.go"):
				packages[path.Dir(name)] = append(packages[path.Dir(name)], name)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		var ofRoot []text
		for _, files := range packages {
			found, err := inPackage(repository, files)
			if err != nil {
				return nil, err
			}
			ofRoot = append(ofRoot, found...)
		}
		slices.SortFunc(ofRoot, func(a, b text) int {
			return cmp.Or(cmp.Compare(a.file, b.file), cmp.Compare(a.line, b.line), cmp.Compare(a.text, b.text),
				cmp.Compare(a.kind, b.kind), cmp.Compare(a.label, b.label))
		})
		texts = append(texts, ofRoot...)
	}
	return texts, nil
}

// inPackage returns the texts of a package's files, in any order.
func inPackage(repository fs.FS, names []string) ([]text, error) {
	set := token.NewFileSet()
	var files []*ast.File
	for _, name := range names {
		source, err := fs.ReadFile(repository, name)
		if err != nil {
			return nil, err
		}
		file, err := parser.ParseFile(set, name, source, parser.SkipObjectResolution)
		if err != nil {
			return nil, err
		}
		files = append(files, file)
	}
	errs := errorsOf(files)
	var texts []text
	for _, file := range files {
		v := &visitor{set: set, errs: errs, usual: other, taken: map[ast.Expr]bool{}}
		if k, ok := usual[file.Name.Name]; ok {
			v.usual = k
		}
		v.file(file)
		texts = append(texts, v.texts...)
	}
	return texts, nil
}

// errorsOf returns the names that make errors in a package: its types with a method Error, and
// its functions that take a format and return an error.
func errorsOf(files []*ast.File) map[string]bool {
	names := map[string]bool{}
	for _, file := range files {
		for _, d := range file.Decls {
			f, ok := d.(*ast.FuncDecl)
			switch {
			case !ok:
			case f.Recv != nil && f.Name.Name == "Error":
				names[lastName(f.Recv.List[0].Type)] = true
			case f.Recv == nil && formats(f.Type):
				names[f.Name.Name] = true
			}
		}
	}
	return names
}

func formats(f *ast.FuncType) bool {
	if f.Results == nil || len(f.Results.List) != 1 || lastName(f.Results.List[0].Type) != "error" {
		return false
	}
	return slices.ContainsFunc(f.Params.List, func(p *ast.Field) bool {
		return slices.ContainsFunc(p.Names, func(n *ast.Ident) bool { return n.Name == "format" })
	})
}

// visitor collects the texts of one file. A place that says more about a text is visited before
// the literal itself, and takes it.
type visitor struct {
	set   *token.FileSet
	errs  map[string]bool // see errorsOf
	usual kind            // of a text whose place says nothing
	taken map[ast.Expr]bool
	texts []text
}

func (v *visitor) file(file *ast.File) {
	for _, d := range file.Decls {
		if g, ok := d.(*ast.GenDecl); ok && g.Tok == token.IMPORT {
			continue
		}
		in := v.usual
		if f, ok := d.(*ast.FuncDecl); ok && f.Recv != nil && f.Name.Name == "Error" {
			in = failure
		}
		ast.Inspect(d, func(n ast.Node) bool { return v.node(n, in) })
	}
}

// node visits a node, of which the texts are of the kind in unless their place says more.
func (v *visitor) node(n ast.Node, in kind) bool {
	switch n := n.(type) {
	case *ast.Field:
		return n.Tag == nil // a tag is for machines
	case *ast.CallExpr:
		v.call(n)
	case *ast.CompositeLit:
		v.composite(n)
	case *ast.ValueSpec:
		for i, value := range n.Values {
			if v.errs[lastName(n.Type)] {
				v.add(failure, "", value)
			}
			if i < len(n.Names) && strings.HasSuffix(n.Names[i].Name, "SQL") {
				v.take(value)
			}
		}
	case *ast.IndexExpr:
		v.take(n.Index) // the key of a map
	case ast.Expr:
		if isText(n) && !v.taken[n] && reads(v.render(n)) {
			v.add(in, "", n)
		}
	}
	return true
}

// call takes the texts that a function is known to show.
func (v *visitor) call(c *ast.CallExpr) {
	name := lastName(c.Fun)
	switch {
	case v.errs[name], isOf(c.Fun, "fmt", "Errorf"), isOf(c.Fun, "errors", "New"),
		isOf(c.Fun, "temporal") && strings.Contains(name, "ApplicationError"):
		v.first(failure, "", c.Args)
	case slices.Contains([]string{"Debug", "Info", "Warn", "Error"}, name) && len(c.Args) > 0:
		v.first(logged, strings.ToLower(name), c.Args[:1])
	case name == "WithDescription":
		v.first(metrics, "", c.Args)
	case name == "SetCurrentDetails" && len(c.Args) == 2:
		v.add(ui, "current details", c.Args[1])
	case isFlag(c):
		v.add(help, "flag "+v.render(firstText(c.Args)), c.Args[len(c.Args)-1])
		v.take(firstText(c.Args))
	}
}

// composite takes the texts of the structs that Cobra and Temporal show, and of errors.
func (v *visitor) composite(c *ast.CompositeLit) {
	name := lastName(c.Type)
	for _, e := range c.Elts {
		pair, ok := e.(*ast.KeyValueExpr)
		if !ok {
			if v.errs[name] {
				v.add(failure, "", e)
			}
			continue
		}
		field := lastName(pair.Key)
		switch {
		case name == "Command" && slices.Contains([]string{"Use", "Short", "Long", "Example"}, field):
			v.add(help, strings.ToLower(field), pair.Value)
		case slices.Contains([]string{"Summary", "Details", "StaticSummary", "StaticDetails"}, field),
			name == "UpdateHandlerOptions" && field == "Description":
			v.add(ui, strings.ToLower(field), pair.Value)
		case v.errs[name]:
			v.add(failure, "", pair.Value)
		default:
			v.take(pair.Key)
		}
	}
}

// first adds the first argument that is a text.
func (v *visitor) first(k kind, label string, args []ast.Expr) {
	v.add(k, label, firstText(args))
}

func firstText(args []ast.Expr) ast.Expr {
	for _, a := range args {
		if isText(a) {
			return a
		}
	}
	return nil
}

// add adds a text, or the texts within a call that makes one, as in brief("retry " + topic).
func (v *visitor) add(k kind, label string, e ast.Expr) {
	switch {
	case e == nil || v.taken[e]:
	case isText(e):
		v.take(e)
		if s := v.render(e); strings.ContainsFunc(s, isLetter) && !isSQL(s) {
			at := v.set.Position(e.Pos())
			v.texts = append(v.texts, text{k, label, at.Filename, at.Line, s})
		}
	default:
		if c, ok := e.(*ast.CallExpr); ok {
			for _, a := range c.Args {
				v.add(k, label, a)
			}
		}
	}
}

// take keeps the parts of an expression from being visited once more.
func (v *visitor) take(e ast.Expr) {
	if e == nil {
		return
	}
	v.taken[e] = true
	switch e := e.(type) {
	case *ast.BinaryExpr:
		v.take(e.X)
		v.take(e.Y)
	case *ast.ParenExpr:
		v.take(e.X)
	}
}

// isText reports whether an expression is a literal, or a sum with one.
func isText(e ast.Expr) bool {
	switch e := e.(type) {
	case *ast.BasicLit:
		return e.Kind == token.STRING
	case *ast.ParenExpr:
		return isText(e.X)
	case *ast.BinaryExpr:
		return e.Op == token.ADD && (isText(e.X) || isText(e.Y))
	}
	return false
}

// render returns the text of an expression, in which {x} stands for the expression x.
func (v *visitor) render(e ast.Expr) string {
	switch e := e.(type) {
	case nil:
		return ""
	case *ast.BasicLit:
		if s, err := strconv.Unquote(e.Value); err == nil {
			return s
		}
	case *ast.ParenExpr:
		return v.render(e.X)
	case *ast.BinaryExpr:
		if e.Op == token.ADD {
			return v.render(e.X) + v.render(e.Y)
		}
	}
	var b strings.Builder
	if err := printer.Fprint(&b, v.set, e); err != nil {
		return fmt.Sprintf("{%T}", e)
	}
	return "{" + b.String() + "}"
}

// reads reports whether a text of an unknown place is for people: two words beside each other,
// and neither SQL nor a name.
func reads(s string) bool {
	if isSQL(s) {
		return false
	}
	words := 0
	for w := range strings.FieldsSeq(s) {
		w = strings.Trim(w, ".,;:!?()*\"'`")
		if len(w) > 1 && !strings.ContainsFunc(w, func(r rune) bool { return !isLetter(r) && r != '-' && r != '\'' }) {
			if words++; words == 2 {
				return true
			}
		}
	}
	return false
}

// begins are the words with which statements, and lines of them, begin.
var begins = []string{
	"SELECT", "FROM", "WHERE", "INSERT", "UPDATE", "DELETE", "CREATE", "ALTER", "DROP", "ORDER BY", "SET", "RESET", "GRANT", "AND",
	"CASE", "CALL", "WITH", "EXISTS", "BEGIN", "COMMIT", "ROLLBACK", "PREPARE",
}

// isSQL recognizes a statement or a part of it.
func isSQL(s string) bool {
	for line := range strings.SplitSeq(s, "\n") {
		line = strings.TrimLeft(line, " \t(")
		if slices.ContainsFunc(begins, func(word string) bool { return strings.HasPrefix(line, word+" ") }) {
			return true
		}
	}
	return strings.Contains(s, "::") || strings.Contains(s, "timestamptz") || strings.Contains(s, "ExecutionStatus = ")
}

func isLetter(r rune) bool { return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' }

// isOf reports whether a function is of a package, and has one of the names, if there are any.
func isOf(f ast.Expr, pkg string, names ...string) bool {
	s, ok := f.(*ast.SelectorExpr)
	if !ok {
		return false
	}
	x, ok := s.X.(*ast.Ident)
	return ok && x.Name == pkg && (len(names) == 0 || slices.Contains(names, s.Sel.Name))
}

// isFlag reports whether a call defines a flag: flag.String(name, …), or a method like
// StringVar(&x, name, …) of any set of flags.
func isFlag(c *ast.CallExpr) bool {
	if len(c.Args) < 3 {
		return false
	}
	name := strings.TrimSuffix(lastName(c.Fun), "P")
	return isOf(c.Fun, "flag") || strings.HasSuffix(name, "Var")
}

// lastName returns the last name of an expression: T of p.T, of *T and of &T{…}.
func lastName(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.Ident:
		return e.Name
	case *ast.SelectorExpr:
		return e.Sel.Name
	case *ast.StarExpr:
		return lastName(e.X)
	}
	return ""
}
