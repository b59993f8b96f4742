package chart

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// A real Redis takes the settings; each namespace reaches its own queues, and nothing that is everybody's.
func TestRedis(t *testing.T) {
	if _, err := exec.LookPath("redis-server"); err != nil {
		t.Skip("redis-server is not installed")
	}
	c := &cluster{t: t, folder: t.TempDir()}
	objects := documents(t, template(t, "--set", "redis.enabled=true,redis.namespaces={sales,stock},redis.passwords.sales=not-a-good-password"))
	users := at(find(t, objects, "Secret", "tablemap-redis-users"), "stringData", "users.acl").(string)
	settings := at(find(t, objects, "ConfigMap", "tablemap-redis"), "data", "redis.conf").(string)
	port := freePort(t)
	settings = strings.NewReplacer("/etc/tablemap/users/users.acl", c.write("users.acl", users), "dir /data", "dir "+c.folder,
		"port 6379", fmt.Sprintf("port %d", port), "bind * -::*", "bind 127.0.0.1").Replace(settings)
	file := c.write("redis.conf", settings)
	server := c.serve("redis-server", "redis-server", file)
	ask := func(user, password, command string) string {
		arguments := []string{"-p", fmt.Sprint(port), "--no-auth-warning", "--user", user, "--pass", password}
		said, _ := exec.Command("redis-cli", append(arguments, strings.Fields(command)...)...).CombinedOutput()
		return strings.TrimSpace(string(said))
	}
	// As the probe does.
	c.until("Redis", func() bool { return ask("_probe", "x", "ping") == "PONG" })
	for command, answer := range map[string]string{
		"xadd {tm:sales:1}:stream 1-1 a b":   "1-1",
		"config get appendfsync":             "appendfsync\nalways",
		"config get maxmemory-policy":        "maxmemory-policy\nnoeviction",
		"eval return(1) 1 {tm:sales:1}:meta": "1",
	} {
		if said := ask("sales", "not-a-good-password", command); said != answer {
			t.Errorf("%s: %s", command, said)
		}
	}
	if said := ask("sales", "not-a-good-password", "info replication"); !strings.Contains(said, "role:master") {
		t.Error(said)
	}
	for _, refused := range [][3]string{
		{"sales", "not-a-good-password", "xadd {tm:stock:1}:stream * a b"}, {"sales", "not-a-good-password", "flushall"},
		{"sales", "not-a-good-password", "config set appendonly no"}, {"sales", "not-a-good-password", "keys *"},
		// Names of others' keys, and their scripts.
		{"sales", "not-a-good-password", "scan 0"}, {"sales", "not-a-good-password", "randomkey"},
		{"sales", "not-a-good-password", "dbsize"}, {"sales", "not-a-good-password", "client tracking on bcast"},
		{"sales", "not-a-good-password", "script flush"}, {"sales", "not-a-good-password", "script kill"},
		{"sales", "not-a-good-password", "function flush"},
		{"sales", "wrong", "ping"}, {"_probe", "x", "get {tm:sales:1}:meta"}, {"default", "", "ping"},
		{"default", "", "config get appendonly"},
	} {
		said := ask(refused[0], refused[1], refused[2])
		if !strings.HasPrefix(said, "NOPERM") && !strings.Contains(said, "WRONGPASS") && !strings.Contains(said, "NOAUTH") {
			t.Errorf("%v: %s", refused, said)
		}
	}
	if files, _ := filepath.Glob(c.path("appendonlydir/*.aof")); len(files) == 0 {
		t.Error("it has no append-only file")
	}
	// What a script has written is there after a restart, though nobody can be the user by whose rights it is read again.
	ask("sales", "not-a-good-password", "eval redis.call('set',KEYS[1],'a')redis.call('set',KEYS[2],'b') 2 {tm:sales:1}:a {tm:sales:1}:b")
	_ = server.Process.Kill()
	_ = server.Wait()
	c.serve("redis-server-again", "redis-server", file)
	c.until("Redis again", func() bool { return ask("_probe", "x", "ping") == "PONG" })
	for key, value := range map[string]string{"a": "a", "b": "b"} {
		if said := ask("sales", "not-a-good-password", "get {tm:sales:1}:"+key); said != value {
			t.Errorf("after a restart %s is %q", key, said)
		}
	}
}
