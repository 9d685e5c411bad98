//! What the API server lets this account do.

use std::fmt;

use futures::future::try_join_all;
use k8s_openapi::api::{
    authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec},
    core::v1::Pod,
};
use kube::{
    Api,
    api::{ListParams, PostParams},
};

use super::Server;

/// Something that the agent asks the API server for.
#[derive(Clone, Debug)]
pub struct Right {
    /// The API group; empty for the core group.
    pub group: &'static str,
    /// The plural name.
    pub resource: &'static str,
    /// What is done with it.
    pub verbs: &'static [&'static str],
    /// The one object that it is about, by namespace and name; without it all of the cluster's.
    pub object: Option<(String, String)>,
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "right to {}", self.resource)
    }
}

// === impl Server ===

impl Server {
    /// Those verbs of the right that this account has not. Any account may ask that
    /// (`system:basic-user`).
    ///
    /// # Errors
    ///
    /// If the server does not answer.
    pub async fn denied(&self, right: &Right) -> Result<Vec<&'static str>, kube::Error> {
        let reviews = right.verbs.iter().map(|&verb| async move {
            let allowed = self.may(right, verb).await?;
            Ok::<_, kube::Error>((!allowed).then_some(verb))
        });
        Ok(try_join_all(reviews).await?.into_iter().flatten().collect())
    }

    async fn may(&self, right: &Right, verb: &str) -> Result<bool, kube::Error> {
        let Right { group, resource, verbs: _, object } = right;
        let (namespace, name) = object.clone().unzip();
        let attributes = ResourceAttributes {
            group: Some((*group).to_owned()),
            resource: Some((*resource).to_owned()),
            verb: Some(verb.to_owned()),
            namespace,
            name,
            ..ResourceAttributes::default()
        };
        let review = SelfSubjectAccessReview {
            spec: SelfSubjectAccessReviewSpec {
                resource_attributes: Some(attributes),
                ..SelfSubjectAccessReviewSpec::default()
            },
            ..SelfSubjectAccessReview::default()
        };
        let reviews = Api::<SelfSubjectAccessReview>::all(self.client());
        let answer = reviews.create(&PostParams::default(), &review).await?;
        Ok(answer.status.is_some_and(|status| status.allowed))
    }

    /// Whether the API knows a pod of this node.
    ///
    /// # Errors
    ///
    /// If the server does not answer, or does not let this account list pods.
    pub async fn has_pods(&self, node: &str) -> Result<bool, kube::Error> {
        let of_node = ListParams::default().fields(&format!("spec.nodeName={node}")).limit(1);
        let pods = Api::<Pod>::all(self.client()).list_metadata(&of_node).await?;
        Ok(!pods.items.is_empty())
    }

    /// Which Kubernetes it is.
    ///
    /// # Errors
    ///
    /// If the server does not answer.
    pub async fn version(&self) -> Result<String, kube::Error> {
        Ok(self.client().apiserver_version().await?.git_version)
    }
}
