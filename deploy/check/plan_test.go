package check

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sort"
	"strings"
	"testing"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/ext/typeexpr"
	"github.com/hashicorp/hcl/v2/hclparse"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/stretchr/testify/require"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/convert"
	"github.com/zclconf/go-cty/cty/function"
	"github.com/zclconf/go-cty/cty/function/stdlib"
	ctyjson "github.com/zclconf/go-cty/cty/json"
)

// plan is what the Terraform module makes of its variables: attributes by the address of
// each instance, and outputs. It evaluates expressions as Terraform does, by the same
// library, and knows nothing of the provider: an attribute that only AWS knows is the text
// of its address, such as "aws_sns_topic.this[orders].arn".
type plan struct {
	instances map[string]map[string]cty.Value
	outputs   map[string]cty.Value
}

// known are the attributes that resources of the module are asked for.
var known = []string{"arn", "id", "key_id", "name", "url"}

// planner evaluates one thing after the other, because they refer to each other.
type planner struct {
	vars, locals map[string]cty.Value
	resources    map[string]map[string]cty.Value // by type and name
	data         cty.Value
}

// planTerraform plans the module with variables, each in JSON.
func planTerraform(files map[string]string, variables map[string]string) (plan, error) {
	p := planner{vars: map[string]cty.Value{}, locals: map[string]cty.Value{}, resources: map[string]map[string]cty.Value{}}
	p.data = cty.ObjectVal(map[string]cty.Value{
		"aws_caller_identity": this("account_id", "111122223333"),
		"aws_partition":       this("partition", "aws"),
		"aws_region":          this("region", "eu-central-1"),
	})
	var blocks []*hclsyntax.Block
	parser := hclparse.NewParser()
	for name, text := range files {
		file, faults := parser.ParseHCL([]byte(text), name)
		if faults.HasErrors() {
			return plan{}, faults
		}
		body, _ := file.Body.(*hclsyntax.Body)
		blocks = append(blocks, body.Blocks...)
	}
	for _, b := range blocks {
		if b.Type != "variable" {
			continue
		}
		v, err := variable(b, variables[b.Labels[0]])
		if err != nil {
			return plan{}, fmt.Errorf("var.%s: %w", b.Labels[0], err)
		}
		p.vars[b.Labels[0]] = v
	}
	if err := p.settle(blocks); err != nil {
		return plan{}, err
	}
	return p.fill(blocks)
}

func this(name, value string) cty.Value {
	return cty.ObjectVal(map[string]cty.Value{"this": cty.ObjectVal(map[string]cty.Value{name: cty.StringVal(value)})})
}

// variable is a variable's value: what is given, or its default, in its type.
func variable(b *hclsyntax.Block, given string) (cty.Value, error) {
	to, defaults, faults := typeexpr.TypeConstraintWithDefaults(b.Body.Attributes["type"].Expr)
	if faults.HasErrors() {
		return cty.NilVal, faults
	}
	var value cty.Value
	if given == "" {
		byDefault, isOptional := b.Body.Attributes["default"]
		if !isOptional {
			return cty.NilVal, errors.New("it is not given and has no default")
		}
		if value, faults = byDefault.Expr.Value(nil); faults.HasErrors() {
			return cty.NilVal, faults
		}
	} else {
		as, err := ctyjson.ImpliedType([]byte(given))
		if err != nil {
			return cty.NilVal, err
		}
		if value, err = ctyjson.Unmarshal([]byte(given), as); err != nil {
			return cty.NilVal, err
		}
	}
	if defaults != nil && !value.IsNull() {
		value = defaults.Apply(value)
	}
	return convert.Convert(value, to)
}

// settle finds the values of locals and the instances of resources, in rounds, until
// nothing is left.
func (p *planner) settle(blocks []*hclsyntax.Block) error {
	for before := -1; ; {
		var left []error
		for _, b := range blocks {
			switch b.Type {
			case "locals":
				for name, a := range b.Body.Attributes {
					if _, isKnown := p.locals[name]; isKnown {
						continue
					}
					v, faults := a.Expr.Value(p.context(nil))
					if faults.HasErrors() {
						left = append(left, faults)
						continue
					}
					p.locals[name] = v
				}
			case "resource":
				if err := p.expand(b); err != nil {
					left = append(left, err)
				}
			}
		}
		if len(left) == 0 {
			return nil
		}
		if len(left) == before {
			return errors.Join(left...)
		}
		before = len(left)
	}
}

// expand says which instances a resource has.
func (p *planner) expand(b *hclsyntax.Block) error {
	kind, name := b.Labels[0], b.Labels[1]
	if _, isKnown := p.resources[kind][name]; isKnown {
		return nil
	}
	keys, err := p.keys(b)
	if err != nil {
		return err
	}
	address := kind + "." + name
	var value cty.Value
	switch {
	case b.Body.Attributes["for_each"] != nil:
		all := map[string]cty.Value{}
		for _, key := range keys {
			all[key.AsString()] = instance(address + "[" + key.AsString() + "]")
		}
		value = cty.ObjectVal(all)
	case b.Body.Attributes["count"] != nil:
		all := []cty.Value{}
		for i := range keys {
			all = append(all, instance(fmt.Sprintf("%s[%d]", address, i)))
		}
		value = cty.TupleVal(all)
	default:
		value = instance(address)
	}
	if p.resources[kind] == nil {
		p.resources[kind] = map[string]cty.Value{}
	}
	p.resources[kind][name] = value
	return nil
}

func instance(address string) cty.Value {
	attributes := map[string]cty.Value{}
	for _, name := range known {
		attributes[name] = cty.StringVal(address + "." + name)
	}
	return cty.ObjectVal(attributes)
}

// keys are those of for_each, or as many as count says, or one.
func (p *planner) keys(b *hclsyntax.Block) ([]cty.Value, error) {
	if a := b.Body.Attributes["count"]; a != nil {
		v, faults := a.Expr.Value(p.context(nil))
		if faults.HasErrors() {
			return nil, faults
		}
		n, _ := v.AsBigFloat().Int64()
		return slices.Repeat([]cty.Value{cty.NilVal}, int(n)), nil
	}
	a := b.Body.Attributes["for_each"]
	if a == nil {
		return []cty.Value{cty.NilVal}, nil
	}
	v, faults := a.Expr.Value(p.context(nil))
	if faults.HasErrors() {
		return nil, faults
	}
	var keys []cty.Value
	for it := v.ElementIterator(); it.Next(); {
		key, _ := it.Element()
		keys = append(keys, key)
	}
	return keys, nil
}

// fill evaluates every attribute of every instance, and the outputs.
func (p *planner) fill(blocks []*hclsyntax.Block) (plan, error) {
	made := plan{instances: map[string]map[string]cty.Value{}, outputs: map[string]cty.Value{}}
	var problems []error
	for _, b := range blocks {
		switch b.Type {
		case "output":
			v, faults := b.Body.Attributes["value"].Expr.Value(p.context(nil))
			if faults.HasErrors() {
				problems = append(problems, faults)
			}
			made.outputs[b.Labels[0]] = v
		case "resource":
			keys, err := p.keys(b)
			if err != nil {
				return plan{}, err
			}
			for i, key := range keys {
				address, each := strings.Join(b.Labels, "."), map[string]cty.Value(nil)
				switch {
				case b.Body.Attributes["count"] != nil:
					address = fmt.Sprintf("%s[%d]", address, i)
				case key != cty.NilVal:
					address += "[" + key.AsString() + "]"
					over, _ := b.Body.Attributes["for_each"].Expr.Value(p.context(nil))
					var value cty.Value
					if over.Type().IsObjectType() {
						value = over.GetAttr(key.AsString())
					} else {
						value = over.Index(key)
					}
					each = map[string]cty.Value{"key": key, "value": value}
				}
				attributes := map[string]cty.Value{}
				if err := p.evaluate(b.Body, p.context(each), "", attributes); err != nil {
					problems = append(problems, fmt.Errorf("%s: %w", address, err))
				}
				made.instances[address] = attributes
			}
		}
	}
	return made, errors.Join(problems...)
}

func (p *planner) evaluate(body *hclsyntax.Body, ctx *hcl.EvalContext, in string, into map[string]cty.Value) error {
	var problems []error
	for name, a := range body.Attributes {
		if slices.Contains([]string{"count", "for_each", "depends_on"}, name) {
			continue
		}
		v, faults := a.Expr.Value(ctx)
		if faults.HasErrors() {
			problems = append(problems, faults)
		}
		into[in+name] = v
	}
	for _, b := range body.Blocks {
		problems = append(problems, p.evaluate(b.Body, ctx, in+b.Type+".", into))
	}
	return errors.Join(problems...)
}

func (p *planner) context(each map[string]cty.Value) *hcl.EvalContext {
	variables := map[string]cty.Value{"var": cty.ObjectVal(p.vars), "local": cty.ObjectVal(p.locals), "data": p.data}
	for kind, byName := range p.resources {
		variables[kind] = cty.ObjectVal(byName)
	}
	if each != nil {
		variables["each"] = cty.ObjectVal(each)
	}
	return &hcl.EvalContext{Variables: variables, Functions: map[string]function.Function{
		"concat":     stdlib.ConcatFunc,
		"merge":      stdlib.MergeFunc,
		"length":     stdlib.LengthFunc,
		"jsonencode": stdlib.JSONEncodeFunc,
		"yamlencode": stdlib.JSONEncodeFunc, // JSON is YAML
		"one":        oneFunc,
	}}
}

// oneFunc is the only element of a list, or null.
var oneFunc = function.New(&function.Spec{
	Params: []function.Parameter{{Name: "list", Type: cty.DynamicPseudoType}},
	Type:   function.StaticReturnType(cty.DynamicPseudoType),
	Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
		switch args[0].LengthInt() {
		case 0:
			return cty.NullVal(cty.DynamicPseudoType), nil
		case 1:
			for it := args[0].ElementIterator(); it.Next(); {
				_, v := it.Element()
				return v, nil
			}
		}
		return cty.NilVal, errors.New("more than one element")
	},
})

// decoded is the JSON in an attribute of an instance.
func (p plan) decoded(t *testing.T, address, attribute string) (v any) {
	t.Helper()
	require.Contains(t, p.instances, address, "there are %v", p.addresses())
	require.NoError(t, json.Unmarshal([]byte(p.instances[address][attribute].AsString()), &v))
	return v
}

func (p plan) addresses() (all []string) {
	for address := range p.instances {
		all = append(all, address)
	}
	sort.Strings(all)
	return all
}
