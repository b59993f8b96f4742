package chart

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// pages are what people read.
func pages(t *testing.T) []string {
	t.Helper()
	pages := []string{"README.md", "charts/tablemap/README.md"}
	for _, pattern := range []string{"docs/*.md", "docs/decisions/*.md"} {
		found, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil || len(found) == 0 {
			t.Fatalf("no %s: %v", pattern, err)
		}
		for _, file := range found {
			page, err := filepath.Rel(root, file)
			if err != nil {
				t.Fatal(err)
			}
			pages = append(pages, page)
		}
	}
	return pages
}

// anchors are those of a page's headings, as GitHub makes them.
func anchors(text string) map[string]bool {
	found := map[string]bool{}
	for _, heading := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(text, -1) {
		plain := strings.ToLower(heading[1])
		plain = regexp.MustCompile(`[^\p{L}\p{N} _-]`).ReplaceAllString(plain, "")
		found[strings.ReplaceAll(plain, " ", "-")] = true
	}
	return found
}

// Links within the docs lead somewhere.
func TestLinks(t *testing.T) {
	links := regexp.MustCompile(`\]\(([^)\s]+)\)`)
	for _, page := range pages(t) {
		for _, link := range links.FindAllStringSubmatch(read(t, page), -1) {
			if strings.Contains(link[1], "://") {
				continue
			}
			path, anchor, _ := strings.Cut(link[1], "#")
			target := page
			if path != "" {
				target = filepath.Join(filepath.Dir(page), path)
			}
			if _, err := os.Stat(filepath.Join(root, target)); err != nil {
				t.Errorf("%s: there is no %s", page, link[1])
			} else if anchor != "" && !anchors(read(t, target))[anchor] {
				t.Errorf("%s: %s has no heading for #%s", page, target, anchor)
			}
		}
	}
}

// Each page is named by the list of pages.
func TestListOfPages(t *testing.T) {
	list := read(t, "docs/README.md")
	for _, page := range pages(t) {
		name, found := strings.CutPrefix(page, "docs/")
		if found && !strings.Contains(name, "/") && name != "README.md" && !strings.Contains(list, "]("+name+")") {
			t.Errorf("docs/README.md does not name %s", name)
		}
	}
}

// Whoever looks a reason up is told what to do. That all reasons are there a Rust test says (src/api/reasons.rs).
func TestWhatToDo(t *testing.T) {
	rows, asks := 0, false
	for _, line := range strings.Split(read(t, "docs/conditions.md"), "\n") {
		if !strings.HasPrefix(line, "|") {
			asks = false
			continue
		}
		cells := strings.Split(strings.Trim(strings.ReplaceAll(line, `\|`, "/"), "| "), " | ")
		last := strings.TrimSpace(cells[len(cells)-1])
		if asks && !strings.HasPrefix(line, "|---") {
			rows++
			// What is wrong needs more than that.
			wrong := len(cells) > 2 && slices.Contains([]string{"False", "Failed"}, cells[1])
			harmless := []string{"`Settled`", "`NotStalled`", "`NothingWantsAPause`", "`NoGap`", "`MapDeleted`"}
			if last == "" || wrong && last == "Nothing." && !slices.Contains(harmless, cells[0]) {
				t.Errorf("what is to be done? %s", line)
			}
		}
		asks = asks || last == "What to do"
	}
	if rows < 100 {
		t.Errorf("only %d rows were looked at", rows)
	}
}
