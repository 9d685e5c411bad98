//! Reaching the API server.

use std::{
    fmt::Debug,
    path::{Path, PathBuf},
    time::Duration,
};

use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::{
    Api, Client, Config,
    api::ListParams,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep, timeout_at};

/// Between two tries to reach the API server at start.
const RETRY_INTERVAL: Duration = Duration::from_millis(500);

/// A connection on which nothing was read for so long is dead. Bookmarks come about once a minute,
/// and the server ends each watch after two.
const READ_TIMEOUT: Duration = Duration::from_secs(150);

/// Why the cluster cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// The kubeconfig is not one.
    #[error(
        "kubeconfig {path} cannot be used: {}; name another with --kubeconfig",
        innermost(source)
    )]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<kube::config::KubeconfigError>,
    },
    /// No kubeconfig was given and the agent does not run in a pod.
    #[error("not running in a cluster ({}); name a kubeconfig with --kubeconfig", innermost(.0))]
    NotInCluster(#[source] Box<kube::config::InClusterError>),
    /// The settings make no client.
    #[error("failed to make a client for the API server: {0}")]
    Client(#[source] Box<kube::Error>),
    /// The API server does not let the agent read what it needs.
    #[error(
        "the API server does not let this agent list {resource}: {reason}; grant get, list and \
         watch on pods and namespaces (deploy/rbac.yaml)"
    )]
    Forbidden {
        /// What was to be listed.
        resource: &'static str,
        /// The server's words.
        reason: String,
    },
    /// Nobody answers.
    #[error(
        "the API server at {url} cannot be reached: {reason}; check that it runs, that this node \
         may reach it, and the credentials; --api-wait sets how long to try"
    )]
    Unreachable {
        /// Its address.
        url: String,
        /// The last error.
        reason: String,
    },
}

/// Makes a client and waits until the API server answers, for `wait` at most.
///
/// # Errors
///
/// [`ClusterError`] if the settings are wrong or no answer came in time.
pub async fn connect(kubeconfig: Option<&Path>, wait: Duration) -> Result<Client, ClusterError> {
    let mut config = match kubeconfig {
        Some(path) => {
            let failed = |source| ClusterError::Kubeconfig {
                path: path.to_owned(),
                source: Box::new(source),
            };
            let kubeconfig = Kubeconfig::read_from(path).map_err(failed)?;
            let options = KubeConfigOptions::default();
            Config::from_custom_kubeconfig(kubeconfig, &options).await.map_err(failed)?
        }
        None => {
            Config::incluster().map_err(|source| ClusterError::NotInCluster(Box::new(source)))?
        }
    };
    config.read_timeout = Some(READ_TIMEOUT);
    let url = config.cluster_url.to_string();
    let client =
        Client::try_from(config).map_err(|source| ClusterError::Client(Box::new(source)))?;
    let deadline = Instant::now() + wait;
    let mut reason = String::from("no answer in time");
    loop {
        match timeout_at(deadline, client.apiserver_version()).await {
            Ok(Ok(version)) => {
                tracing::debug!(%url, version = version.git_version, "API server answers");
                may_list(Api::<Pod>::all(client.clone()), "pods").await?;
                may_list(Api::<Namespace>::all(client.clone()), "namespaces").await?;
                return Ok(client);
            }
            Ok(Err(error)) => reason = innermost(&error),
            Err(_) => return Err(ClusterError::Unreachable { url, reason }),
        }
        if Instant::now() + RETRY_INTERVAL >= deadline {
            return Err(ClusterError::Unreachable { url, reason });
        }
        tracing::debug!(%url, reason, "API server does not answer yet");
        sleep(RETRY_INTERVAL).await;
    }
}

/// Refuses to start without the rights that the watches need; they would only retry for ever. Any
/// other error is left to them.
async fn may_list<K>(api: Api<K>, resource: &'static str) -> Result<(), ClusterError>
where
    K: Clone + DeserializeOwned + Debug,
{
    match api.list_metadata(&ListParams::default().limit(1)).await {
        Err(kube::Error::Api(status)) if status.is_forbidden() => {
            Err(ClusterError::Forbidden { resource, reason: status.message.clone() })
        }
        Ok(_) | Err(_) => Ok(()),
    }
}

/// The root of an error, in one line: the layers above only say that a request failed.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    let text = error.to_string();
    // What a YAML parser adds is a picture of the place.
    text.lines().next().unwrap_or_default().to_owned()
}
