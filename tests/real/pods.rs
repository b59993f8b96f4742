//! Workers as pods. There is no kubelet: the test reads what the operator has made, and runs it as its pod would.

use crate::{
    scene::ITEMS,
    support::{
        process::Process,
        rig::{Rig, SOON, same_map},
        timing::timed,
        wait::{wait_for, wait_until},
    },
};
use serde_json::{Value, json};

const IMAGE: &str = "registry.test/tablemap:7";

/// What no worker may.
const NEVER: &[&[&str]] = &[
    &["get", "secrets/other"],
    &["list", "secrets"],
    &["list", "configmaps"],
    &["get", "configmaps/kube-root-ca.crt"],
    &["patch", "tablemaps"],
    &["update", "tablemaps"],
    &["delete", "tablemaps"],
    &["create", "tablemapoperations"],
    &["patch", "connections"],
    &["create", "leases.coordination.k8s.io"],
    &["update", "leases.coordination.k8s.io/other"],
    &["get", "pods"],
    &["get", "tablemaps", "--namespace=kube-system"],
];

struct Pods {
    rig: Rig,
    operator: Process,
}

impl Pods {
    async fn start(tables: &str) -> Self {
        let mut rig = Rig::start().await;
        rig.both(tables).await;
        let operator = rig.operator_with_pods(IMAGE);
        Self { rig, operator }
    }

    fn map(&self, table: &str) {
        self.rig.api.apply(&same_map(table, &["id"], &["id", "note"]));
    }

    fn get(&self, arguments: &[&str]) -> Value {
        let arguments: Vec<&str> = ["get"]
            .iter()
            .chain(arguments)
            .chain(&["-o", "json"])
            .copied()
            .collect();
        serde_json::from_str(&self.rig.api.kubectl(&arguments)).unwrap()
    }

    fn deployments(&self) -> Vec<Value> {
        let list = self.get(&["deployments"]);
        list["items"].as_array().unwrap().clone()
    }

    /// Waits for the only Deployment there is.
    async fn deployment(&self) -> Value {
        wait_for(SOON, "a Deployment", async || {
            let mut found = self.deployments();
            (found.len() == 1).then(|| found.remove(0))
        })
        .await
    }

    /// Waits for a rule of the worker's Role.
    async fn may_read(&self, worker: &str, secret: &str, yes: bool) {
        let what = format!("that {worker} may read {secret}: {yes}");
        wait_until(SOON, &what, async || {
            self.may(worker, &["get", &format!("secrets/{secret}")]) == yes
        })
        .await;
    }

    /// Asks the API server what the worker's account may do.
    fn may(&self, worker: &str, what: &[&str]) -> bool {
        let account = format!("--as=system:serviceaccount:default:{worker}");
        let mut command = self.rig.api.command();
        command.args(["auth", "can-i"]).args(what).arg(account);
        command.output().unwrap().stdout.starts_with(b"yes")
    }

    /// What is refused is kept, tried again by an operation, and told as an event.
    async fn does_all_of_its_work(&self) {
        let crm = self.rig.crm().await;
        let erp = self.rig.erp().await;
        self.rig.pause("items");
        self.rig.condition("items", "Paused", "True").await;
        crm.batch_execute("INSERT INTO items VALUES (1, NULL, 'one'), (2, NULL, 'two')")
            .await
            .unwrap();
        erp.batch_execute("ALTER TABLE items ADD CONSTRAINT small CHECK (id < 2)")
            .await
            .unwrap();
        self.rig.resume("items");
        wait_until(SOON, "an error", async || {
            self.rig.status("items").await["errors"]["count"] == 1
        })
        .await;
        erp.batch_execute("ALTER TABLE items DROP CONSTRAINT small")
            .await
            .unwrap();
        self.rig.ask_errors("again", "items", "Retry", "{type: All}");
        self.rig.ended("again").await;
        self.rig.equal("items", "id").await;
        wait_until(SOON, "the worker's events", async || {
            let events = self.get(&["events.events.k8s.io"]);
            let events = events["items"].as_array().unwrap();
            events.iter().any(|event| event["reason"] == "RecordsRetried")
        })
        .await;
    }

    /// What no worker may.
    fn has_no_other_right(&self, worker: &str) {
        self.rig.api.kubectl(&[
            "create",
            "secret",
            "generic",
            "other",
            "--from-literal=password=p",
        ]);
        for what in NEVER {
            assert!(!self.may(worker, what), "{what:?}");
        }
    }

    /// Runs what a Deployment's container would, as its account.
    fn run(&mut self, deployment: &Value) -> Process {
        let worker = name(deployment);
        let pod = &deployment["spec"]["template"]["spec"];
        assert_eq!(pod["serviceAccountName"], worker.as_str());
        let container = &pod["containers"][0];
        assert_eq!(container["image"], IMAGE);
        let arguments: Vec<String> = serde_json::from_value(container["args"].clone()).unwrap();
        // There is but one network here.
        let arguments = arguments
            .iter()
            .filter(|argument| !argument.starts_with("--bind-address"));
        let kubeconfig = self.rig.api.kubeconfig_of_account(&worker);
        self.rig
            .run_as(&kubeconfig, &arguments.map(String::as_str).collect::<Vec<_>>())
    }
}

fn name(object: &Value) -> String {
    object["metadata"]["name"].as_str().unwrap().to_owned()
}

/// From the first map to the last: a worker works with just its rights, and nothing rolls it but its own template.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_pod_works_with_just_its_rights() {
    let _time = timed("a_worker_pod_works_with_just_its_rights");
    let others = ["people", "places"]
        .map(|table| ITEMS.replace("items", table))
        .join(";");
    let mut pods = Pods::start(&format!("{ITEMS};{others}")).await;
    pods.map("items");
    let deployment = pods.deployment().await;
    let worker = name(&deployment);
    pods.rig.reason("items", "WorkerAvailable", "NoWorker").await;
    let _running = pods.run(&deployment);
    pods.rig.condition("items", "CaughtUp", "True").await;
    pods.rig.condition("items", "WorkerAvailable", "True").await;

    pods.does_all_of_its_work().await;
    pods.has_no_other_right(&worker);

    // A map more, with a Connection of its own: the worker may read its Secret, and is not rolled.
    pods.rig.api.apply(&more_connections(&pods.rig.connections()));
    pods.may_read(&worker, "more", false).await;
    let map = same_map("people", &["id"], &["id", "note"]).replace("{name: erp}", "{name: more}");
    pods.rig.api.apply(&map);
    pods.rig.condition("people", "CaughtUp", "True").await;
    assert!(pods.may(&worker, &["get", "secrets/more"]));
    let now = pods.deployment().await;
    assert_eq!(
        now["metadata"]["generation"], deployment["metadata"]["generation"],
        "it is rolled"
    );
    pods.rig
        .api
        .kubectl(&["delete", "tablemap", "people", "--timeout=60s"]);
    pods.may_read(&worker, "more", false).await;

    // Its own template rolls it; what is changed by hand is put right.
    let template = r#"{"spec":{"workerTemplate":{"spec":{"nodeSelector":{"disk":"fast"}}}}}"#;
    pods.rig
        .api
        .kubectl(&["patch", "connection", "crm", "--type=merge", "-p", template]);
    let selector = async |wanted: Value| {
        wait_until(SOON, &format!("a node selector {wanted}"), async || {
            pods.deployment().await["spec"]["template"]["spec"]["nodeSelector"] == wanted
        })
        .await;
    };
    selector(json!({"disk": "fast"})).await;
    let by_hand = r#"{"spec":{"template":{"spec":{"nodeSelector":{"disk":"slow"}}}}}"#;
    pods.rig
        .api
        .kubectl(&["patch", "deployment", &worker, "--type=merge", "-p", by_hand]);
    selector(json!({"disk": "fast"})).await;

    // With the last map goes the worker, and all that was made for it.
    pods.rig
        .api
        .kubectl(&["delete", "tablemap", "items", "--timeout=60s"]);
    wait_until(SOON, "the worker's end", async || pods.deployments().is_empty()).await;
    for kind in ["serviceaccounts", "roles", "rolebindings", "leases"] {
        let left = pods.get(&[kind, "-l", "tablemap.dev/worker"]);
        assert_eq!(left["items"], json!([]), "{kind}");
    }
    assert!(pods.operator.ended().is_none());
}

/// The Connection `erp` once more, as `more`, with a Secret of its own.
fn more_connections(all: &str) -> String {
    let parts = all
        .split("---\n")
        .filter(|part| part.contains("name: erp") || part.contains("kind: Secret"));
    let renamed: Vec<String> = parts
        .map(|part| {
            part.replace("name: erp", "name: more")
                .replace("name: login", "name: more")
        })
        .collect();
    renamed.join("---\n")
}

/// Why a worker does not start stands in the status of its maps.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_cannot_start_is_explained() {
    let _time = timed("a_worker_that_cannot_start_is_explained");
    let pods = Pods::start(ITEMS).await;
    pods.map("items");
    let worker = name(&pods.deployment().await);
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "one", "namespace": "default", "labels": {"tablemap.dev/worker": worker}},
        "spec": {"containers": [{"name": "worker", "image": IMAGE}]},
    });
    pods.rig.api.apply(&pod.to_string());
    let says = async |status: Value, reason: &str, text: &str| {
        let patch = json!({"status": status}).to_string();
        pods.rig.api.kubectl(&[
            "patch",
            "pod",
            "one",
            "--subresource=status",
            "--type=merge",
            "-p",
            &patch,
        ]);
        let said = pods.rig.reason("items", "WorkerAvailable", reason).await;
        let conditions = said["conditions"].as_array().unwrap();
        let said = conditions
            .iter()
            .find(|condition| condition["type"] == "WorkerAvailable")
            .unwrap();
        assert!(said["message"].as_str().unwrap().contains(text), "{said:#}");
    };
    let unscheduled =
        json!({"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no node"});
    says(json!({"conditions": [unscheduled]}), "Unschedulable", "no node").await;
    let container = |state: Value, last: Value| {
        json!({"conditions": [], "containerStatuses": [{
            "name": "worker", "image": IMAGE, "imageID": "", "ready": false, "restartCount": 4, "state": state,
            "lastState": last,
        }]})
    };
    let waiting = |reason: &str| json!({"waiting": {"reason": reason, "message": "gone"}});
    says(
        container(waiting("ImagePullBackOff"), json!({})),
        "ImageUnavailable",
        IMAGE,
    )
    .await;
    let ended = json!({"terminated": {"exitCode": 1, "reason": "Error", "message": "tablemap: it broke\n"}});
    says(
        container(waiting("CrashLoopBackOff"), ended),
        "WorkerCrashes",
        "it broke",
    )
    .await;

    // Or the API server refuses what is to be made.
    let wrong = r#"{"spec":{"workerTemplate":{"metadata":{"labels":{"not a label":"x"}}}}}"#;
    pods.rig
        .api
        .kubectl(&["patch", "connection", "crm", "--type=merge", "-p", wrong]);
    let said = pods.rig.reason("items", "WorkerAvailable", "WorkerRefused").await;
    assert!(said.to_string().contains("Its Deployment is refused"), "{said:#}");
    let right = r#"{"spec":{"workerTemplate":null}}"#;
    pods.rig
        .api
        .kubectl(&["patch", "connection", "crm", "--type=merge", "-p", right]);
    pods.rig.reason("items", "WorkerAvailable", "WorkerCrashes").await;
}
