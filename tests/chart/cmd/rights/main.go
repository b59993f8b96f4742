// Command rights compares what service accounts have asked of the API server, by its audit log, with what they may ask: both
// must be the same. Arguments: the audit log, then service accounts as NAMESPACE/NAME. It asks kubectl what they may. RARE names
// rights, as VERB RESOURCE or VERB RESOURCE NAME with commas between, that need not have been used: whoever sets it says why.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"sort"
	"strings"
)

type meta struct{ Name, Namespace string }

type rule struct {
	APIGroups, Resources, Verbs, ResourceNames, NonResourceURLs []string
}

type role struct {
	Metadata meta
	Rules    []rule
}

type binding struct {
	Metadata meta
	RoleRef  struct{ Kind, Name string }
	Subjects []struct{ Kind, Name, Namespace string }
}

type event struct {
	Verb string
	User struct{ Username string }
	// Of a resource.
	ObjectRef *struct {
		Resource, Subresource, APIGroup, Namespace, Name string
	}
	ResponseStatus struct{ Code int }
}

// A right, or a use of one. In a right an empty namespace or name stands for all.
type right struct{ verb, resource, namespace, name string }

func (r right) String() string {
	text := fmt.Sprintf("%-8s %s", r.verb, r.resource)
	if r.name != "" {
		text += " " + r.name
	}
	if r.namespace != "" {
		text += " in " + r.namespace
	}
	return text
}

func (r right) allows(used right) bool {
	return r.verb == used.verb && r.resource == used.resource &&
		(r.namespace == "" || r.namespace == used.namespace) && (r.name == "" || r.name == used.name)
}

func main() {
	if len(os.Args) < 3 {
		fmt.Fprintln(os.Stderr, "usage: rights AUDIT-LOG NAMESPACE/NAME...")
		os.Exit(2)
	}
	rare := strings.Split(os.Getenv("RARE"), ",")
	uses := read(os.Args[1])
	bad := false
	for _, account := range os.Args[2:] {
		namespace, name, _ := strings.Cut(account, "/")
		granted := granted(namespace, name)
		used := uses["system:serviceaccount:"+namespace+":"+name]
		fmt.Printf("%s: %d rights, %d kinds of requests\n", account, len(granted), len(used))
		for _, request := range sorted(used) {
			allowed := slices.ContainsFunc(granted, func(right right) bool { return right.allows(request) })
			if used[request] && !allowed {
				fmt.Printf("  not granted: %s\n", request)
				bad = true
			}
			if !used[request] {
				fmt.Printf("  refused:     %s\n", request)
				bad = true
			}
		}
		for _, right := range granted {
			asked := false
			for request, allowed := range used {
				asked = asked || allowed && right.allows(request)
			}
			text := right.verb + " " + right.resource
			if !asked && (slices.Contains(rare, text) || slices.Contains(rare, text+" "+right.name)) {
				fmt.Printf("  rare:        %s\n", right)
			} else if !asked {
				fmt.Printf("  never used:  %s\n", right)
				bad = true
			}
		}
	}
	if bad {
		os.Exit(1)
	}
}

// read tells of each user what was asked, and whether it was allowed at least once.
func read(path string) map[string]map[right]bool {
	file, err := os.Open(path)
	check(err)
	defer file.Close()
	uses := map[string]map[right]bool{}
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<24)
	for lines.Scan() {
		var event event
		check(json.Unmarshal(lines.Bytes(), &event))
		if event.ObjectRef == nil {
			continue
		}
		object := *event.ObjectRef
		used := right{event.Verb, resource(object.APIGroup, object.Resource, object.Subresource), object.Namespace, object.Name}
		user := uses[event.User.Username]
		if user == nil {
			user = map[right]bool{}
			uses[event.User.Username] = user
		}
		user[used] = user[used] || event.ResponseStatus.Code != 403
		// What an apply makes is written down as patched, and needs the right to create it.
		if used.verb == "patch" && event.ResponseStatus.Code == 201 {
			used.verb = "create"
			user[used] = true
		}
	}
	check(lines.Err())
	return uses
}

func resource(group, name, sub string) string {
	if sub != "" {
		name += "/" + sub
	}
	if group != "" {
		name += "." + group
	}
	return name
}

// granted is what a service account may, by all bindings that name it. What everybody may is not among it.
func granted(namespace, name string) []right {
	var rights []right
	for _, kind := range []string{"rolebindings", "clusterrolebindings"} {
		var bindings struct{ Items []binding }
		get(&bindings, kind, "-A")
		for _, binding := range bindings.Items {
			for _, subject := range binding.Subjects {
				if subject.Kind == "ServiceAccount" && subject.Namespace == namespace && subject.Name == name {
					rights = append(rights, of(binding)...)
				}
			}
		}
	}
	return rights
}

func of(binding binding) []right {
	var role role
	where := []string{strings.ToLower(binding.RoleRef.Kind), binding.RoleRef.Name}
	if binding.RoleRef.Kind == "Role" {
		where = append(where, "--namespace", binding.Metadata.Namespace)
	}
	get(&role, where...)
	var rights []right
	for _, rule := range role.Rules {
		names := rule.ResourceNames
		if len(names) == 0 {
			names = []string{""}
		}
		for _, group := range rule.APIGroups {
			for _, full := range rule.Resources {
				name, sub, _ := strings.Cut(full, "/")
				for _, verb := range rule.Verbs {
					for _, object := range names {
						rights = append(rights, right{verb, resource(group, name, sub), binding.Metadata.Namespace, object})
					}
				}
			}
		}
	}
	return rights
}

func get(into any, arguments ...string) {
	command := exec.Command("kubectl", append([]string{"get", "-o", "json"}, arguments...)...)
	command.Stderr = os.Stderr
	output, err := command.Output()
	check(err)
	check(json.Unmarshal(output, into))
}

func sorted(rights map[right]bool) []right {
	var all []right
	for right := range rights {
		all = append(all, right)
	}
	sort.Slice(all, func(one, other int) bool { return all[one].String() < all[other].String() })
	return all
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
}
