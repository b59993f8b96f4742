//! Whether a caller may read records. The API server has asked this already before it passed the request on: here it counts
//! for those who come round it.

use super::{GROUP, VERSION, caller::Caller, fault::Fault, request::Records};
use crate::apiserver;
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::{Api, Client, api::PostParams};
use std::time::Duration;

const DEADLINE: Duration = Duration::from_secs(5);

/// # Errors
/// He may not; or the API server cannot be asked, so that nobody may.
pub async fn check(client: &Client, caller: &Caller, records: &Records) -> Result<(), Fault> {
    let (verb, subresource) = records.verb();
    let review = SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: Some(caller.user.clone()),
            groups: Some(caller.groups.clone()),
            extra: Some(caller.extra.clone()),
            resource_attributes: Some(ResourceAttributes {
                group: Some(GROUP.into()),
                version: Some(VERSION.into()),
                resource: Some(records.resource.plural().into()),
                subresource: Some(subresource.to_owned()).filter(|name| !name.is_empty()),
                verb: Some(verb.into()),
                namespace: records.namespace.clone(),
                name: records.name().map(str::to_owned),
                ..ResourceAttributes::default()
            }),
            ..SubjectAccessReviewSpec::default()
        },
        ..SubjectAccessReview::default()
    };
    let api: Api<SubjectAccessReview> = Api::all(client.clone());
    let options = PostParams::default();
    let asked = apiserver::within(DEADLINE, api.create(&options, &review)).await;
    let unknown = |error| {
        tracing::warn!(%error, "whether a caller may read records cannot be asked");
        Fault::Unavailable("whether you may read records cannot be asked now: try again".into())
    };
    let answer = asked.map_err(unknown)?;
    if answer
        .status
        .is_some_and(|status| status.allowed && status.denied != Some(true))
    {
        return Ok(());
    }
    let slash = if subresource.is_empty() { "" } else { "/" };
    let place = records.namespace.as_ref().map_or_else(
        || "at the cluster scope".into(),
        |name| format!("in the namespace {name:?}"),
    );
    Err(Fault::Forbidden(format!(
        "{} is forbidden: User {:?} cannot {verb} resource \"{}{slash}{subresource}\" in API group {GROUP:?} {place}",
        records.resource.plural(),
        caller.user,
        records.resource.plural(),
    )))
}
