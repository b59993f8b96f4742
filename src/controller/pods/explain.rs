//! Why a worker does not work, as its Deployment and its pods tell. Pure.

use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{ContainerState, ContainerStatus, Pod},
};
use kube::ResourceExt;

/// Longest text that is taken from a pod.
const LONGEST: usize = 300;
/// A container that waits for one of these gets no image.
const NO_IMAGE: &[&str] = &[
    "ErrImagePull",
    "ImagePullBackOff",
    "ErrImageNeverPull",
    "InvalidImageName",
];
/// And for one of these it cannot be made.
const NO_CONTAINER: &[&str] = &[
    "CreateContainerConfigError",
    "CreateContainerError",
    "RunContainerError",
];

/// A reason of the condition `WorkerAvailable`, and a sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Why {
    pub reason: &'static str,
    pub message: String,
}

impl Why {
    pub fn new(reason: &'static str, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { reason, message }
    }
}

/// None: nothing is known to hinder it.
#[must_use]
pub fn why(deployment: Option<&Deployment>, pods: &[Pod]) -> Option<Why> {
    let going = |pod: &&Pod| pod.metadata.deletion_timestamp.is_none();
    let newest = pods
        .iter()
        .filter(going)
        .max_by_key(|pod| pod.creation_timestamp());
    match newest {
        Some(pod) => of_pod(pod),
        None => refused(deployment?),
    }
}

/// The pod may not be made: a quota, or a rule about pods.
fn refused(deployment: &Deployment) -> Option<Why> {
    let conditions = deployment.status.as_ref()?.conditions.as_ref()?;
    let failed = conditions
        .iter()
        .find(|condition| condition.type_ == "ReplicaFailure" && condition.status == "True")?;
    let text = cut(failed.message.as_deref().unwrap_or_default());
    Some(Why::new("PodRefused", format!("Its pod cannot be made: {text}")))
}

fn of_pod(pod: &Pod) -> Option<Why> {
    let status = pod.status.as_ref()?;
    let unscheduled = status.conditions.iter().flatten();
    let unscheduled = unscheduled
        .filter(|condition| condition.type_ == "PodScheduled" && condition.status == "False")
        .find_map(|condition| condition.message.as_deref());
    if let Some(message) = unscheduled {
        let text = cut(message);
        return Some(Why::new(
            "Unschedulable",
            format!("No node takes its pod {}: {text}", pod.name_any()),
        ));
    }
    let containers = status.container_statuses.as_deref().unwrap_or_default();
    let worker = containers.iter().find(|container| container.name == "worker");
    match worker.and_then(|container| of_container(&pod.name_any(), container)) {
        None if status.phase.as_deref() == Some("Failed") => {
            let text = cut(status.message.as_deref().unwrap_or("its node tells no more."));
            let message = format!("Pod {} has failed: {text}", pod.name_any());
            Some(Why::new("WorkerCrashes", message))
        }
        why => why,
    }
}

fn of_container(pod: &str, container: &ContainerStatus) -> Option<Why> {
    let waiting = container.state.as_ref().and_then(|state| state.waiting.as_ref());
    let reason = waiting
        .and_then(|waiting| waiting.reason.as_deref())
        .unwrap_or_default();
    let text = cut(waiting
        .and_then(|waiting| waiting.message.as_deref())
        .unwrap_or_default());
    if NO_IMAGE.contains(&reason) {
        let image = &container.image;
        return Some(Why::new(
            "ImageUnavailable",
            format!("The image {image} cannot be had: {text}"),
        ));
    }
    if NO_CONTAINER.contains(&reason) {
        return Some(Why::new(
            "ContainerRefused",
            format!("The container of pod {pod} cannot be made: {text}"),
        ));
    }
    let ended = ended(container.state.as_ref()).or_else(|| ended(container.last_state.as_ref()))?;
    let times = container.restart_count;
    Some(Why::new(
        "WorkerCrashes",
        format!("Its container in pod {pod} has ended, and was started again {times} times. {ended}"),
    ))
}

/// How it ended last.
fn ended(state: Option<&ContainerState>) -> Option<String> {
    let ended = state?.terminated.as_ref()?;
    let lines = ended.message.as_deref().unwrap_or_default().lines();
    // Only what the program says at its end: other lines of a log may hold what a server has said.
    let last = lines.rev().find(|line| line.starts_with("tablemap: "));
    Some(match (ended.reason.as_deref(), last) {
        (Some("OOMKilled"), _) => "It was killed since it needed more memory than its limit: raise \
                                   spec.workerTemplate.spec.resources of the Connection."
            .to_owned(),
        (_, Some(line)) => format!("Exit code {}: {}", ended.exit_code, cut(line)),
        (_, None) => format!("Exit code {}.", ended.exit_code),
    })
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn said(status: Value) -> Option<Why> {
        let pod = json!({"metadata": {"name": "w-1"}, "status": status});
        why(None, &[serde_json::from_value(pod).unwrap()])
    }

    fn container(state: Value) -> Value {
        let mut status = json!({"name": "worker", "image": "tablemap:9", "imageID": "", "ready": false, "restartCount": 3});
        for (field, value) in state.as_object().unwrap() {
            status[field] = value.clone();
        }
        json!({"containerStatuses": [status]})
    }

    fn reason(status: Value) -> (&'static str, String) {
        let why = said(status).unwrap();
        (why.reason, why.message)
    }

    #[test]
    fn each_hindrance_is_named() {
        let unschedulable = json!({"conditions": [{
            "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes: no disk",
        }]});
        let (found, message) = reason(unschedulable);
        assert_eq!((found, message.contains("no disk")), ("Unschedulable", true));
        let waiting = |reason: &str| {
            container(json!({"state": {"waiting": {"reason": reason, "message": "not there"}}}))
        };
        let (found, message) = reason(waiting("ImagePullBackOff"));
        assert_eq!(found, "ImageUnavailable");
        assert!(
            message.contains("tablemap:9") && message.contains("not there"),
            "{message}"
        );
        assert_eq!(
            reason(waiting("CreateContainerConfigError")).0,
            "ContainerRefused"
        );
        let crashes = container(json!({
            "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}},
            "lastState": {"terminated": {"exitCode": 1, "reason": "Error", "message": "first\ntablemap: no such thing\n"}},
        }));
        let (found, message) = reason(crashes);
        assert_eq!(found, "WorkerCrashes");
        assert!(
            message.ends_with("Exit code 1: tablemap: no such thing"),
            "{message}"
        );
        let killed =
            container(json!({"lastState": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}}));
        assert!(reason(killed).1.contains("memory"));
        assert_eq!(said(waiting("ContainerCreating")), None);
    }

    #[test]
    fn a_pod_that_may_not_be_made_is_explained_by_its_deployment() {
        let deployment = json!({"status": {"conditions": [{
            "type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": "exceeded quota",
        }]}});
        let deployment: Deployment = serde_json::from_value(deployment).unwrap();
        let found = why(Some(&deployment), &[]).unwrap();
        assert_eq!(
            (found.reason, found.message.as_str()),
            ("PodRefused", "Its pod cannot be made: exceeded quota")
        );
        assert_eq!(why(None, &[]), None);
    }
}
