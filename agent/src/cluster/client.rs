//! Reaching the API server.

use std::{
    env,
    fmt::Debug,
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::{
    Api, Client, Config,
    api::ListParams,
    config::{KubeConfigOptions, Kubeconfig, KubeconfigError},
};
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep, timeout_at};

use super::token::Token;

/// Between two tries to reach the API server at start.
const RETRY_INTERVAL: Duration = Duration::from_millis(500);

/// A connection on which nothing was read for so long is dead. Bookmarks come about once a minute,
/// and the server ends each watch after two at most.
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
        source: Box<KubeconfigError>,
    },
    /// No kubeconfig was given and the agent does not run in a pod.
    #[error("not running in a cluster ({}); name a kubeconfig with --kubeconfig", innermost(.0))]
    NotInCluster(#[source] Box<kube::config::InClusterError>),
    /// The settings make no client.
    #[error("failed to make a client for the API server: {0}")]
    Client(#[source] Box<kube::Error>),
    /// The API server does not let the agent read what it needs.
    #[error(
        "the API server does not let this agent list {resource}: {reason}; grant list and watch \
         on pods and namespaces (deploy/holdfast.yaml)"
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
         may reach it, and the credentials; without --api-wait the agent works meanwhile"
    )]
    Unreachable {
        /// Its address.
        url: String,
        /// The last error.
        reason: String,
    },
    /// A DaemonSet cannot be read.
    #[error("failed to read DaemonSet {daemonset}: {reason}")]
    DaemonSet {
        /// Its namespace and name.
        daemonset: String,
        /// Why.
        reason: String,
    },
}

/// An API server, which may not answer yet.
#[derive(Clone)]
pub struct Server {
    client: Client,
    url: String,
    token: Token,
}

impl Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("url", &self.url).finish_non_exhaustive()
    }
}

impl Server {
    /// The one that `kubeconfig` names: one file or, as in `KUBECONFIG`, a list of them with colons;
    /// without it that of the cluster in which the agent is a pod. It is not asked anything yet.
    ///
    /// # Errors
    ///
    /// [`ClusterError`] if the settings are wrong.
    pub async fn new(kubeconfig: Option<&Path>) -> Result<Self, ClusterError> {
        let config = config(kubeconfig).await?;
        let url = config.cluster_url.to_string();
        let token = Token::new(config.auth_info.token_file.as_ref().map(PathBuf::from));
        let client =
            Client::try_from(config).map_err(|source| ClusterError::Client(Box::new(source)))?;
        Ok(Self { client, url, token })
    }

    /// Its address.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// To ask it.
    #[must_use]
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// Whether the token by which it knows this agent says that it has expired.
    pub(super) fn token_has_expired(&self) -> bool {
        self.token.has_expired()
    }

    /// Waits until it answers, for `wait` at most, and checks that the agent may read what it needs.
    ///
    /// # Errors
    ///
    /// [`ClusterError`] if it may not, or if no answer came in time.
    pub async fn reach(&self, wait: Duration) -> Result<(), ClusterError> {
        let Self { client, url, token: _ } = self;
        let unreachable = |reason| ClusterError::Unreachable { url: url.clone(), reason };
        let deadline = Instant::now() + wait;
        let mut reason = String::from("no answer in time");
        loop {
            match timeout_at(deadline, client.apiserver_version()).await {
                Ok(Ok(version)) => {
                    tracing::debug!(%url, version = version.git_version, "API server answers");
                    may_list(Api::<Pod>::all(client.clone()), "pods").await?;
                    return may_list(Api::<Namespace>::all(client.clone()), "namespaces").await;
                }
                Ok(Err(error)) => reason = innermost(&error),
                Err(_) => return Err(unreachable(reason)),
            }
            if Instant::now() + RETRY_INTERVAL >= deadline {
                return Err(unreachable(reason));
            }
            tracing::debug!(%url, reason, "API server does not answer yet");
            sleep(RETRY_INTERVAL).await;
        }
    }
}

async fn config(kubeconfig: Option<&Path>) -> Result<Config, ClusterError> {
    let mut config = match kubeconfig {
        Some(path) => {
            let failed = |source| ClusterError::Kubeconfig {
                path: path.to_owned(),
                source: Box::new(source),
            };
            let kubeconfig = read_kubeconfig(path).map_err(failed)?;
            let options = KubeConfigOptions::default();
            Config::from_custom_kubeconfig(kubeconfig, &options).await.map_err(failed)?
        }
        None => {
            Config::incluster().map_err(|source| ClusterError::NotInCluster(Box::new(source)))?
        }
    };
    config.read_timeout = Some(READ_TIMEOUT);
    // kube would try again by itself what is answered with 429, 503 or 504: 15 times, in silence, and
    // after as long as the server likes (`RetryPolicy::server_retry`). Who asks tries again here.
    config.default_retry = false;
    Ok(config)
}

/// Reads files as kubectl does: the first to set a value wins, empty names are passed over, and of
/// several also those that do not exist.
fn read_kubeconfig(path: &Path) -> Result<Kubeconfig, KubeconfigError> {
    let files: Vec<PathBuf> =
        env::split_paths(path).filter(|file| !file.as_os_str().is_empty()).collect();
    // A file may have a colon in its name.
    if path.exists() {
        return Kubeconfig::read_from(path);
    }
    if let [file] = &files[..] {
        return Kubeconfig::read_from(file);
    }
    let mut merged: Option<Kubeconfig> = None;
    let mut missing = None;
    for file in files {
        match Kubeconfig::read_from(&file) {
            Ok(next) => {
                merged = Some(match merged {
                    Some(first) => first.merge(next)?,
                    None => next,
                });
            }
            Err(KubeconfigError::ReadConfig(error, _))
                if error.kind() == io::ErrorKind::NotFound =>
            {
                missing.get_or_insert(KubeconfigError::ReadConfig(error, file));
            }
            Err(error) => return Err(error),
        }
    }
    merged.ok_or_else(|| missing.unwrap_or(KubeconfigError::FindPath))
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
pub(crate) fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    let text = error.to_string();
    // What a YAML parser adds is a picture of the place.
    text.lines().next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A kubeconfig with one cluster, user and context of the same name.
    fn kubeconfig(name: &str, current: bool) -> String {
        let current = if current { format!("current-context: {name}\n") } else { String::new() };
        format!(
            "apiVersion: v1\nkind: Config\n{current}\
             clusters: [{{name: {name}, cluster: {{server: 'http://{name}:6443'}}}}]\n\
             users: [{{name: {name}, user: {{}}}}]\n\
             contexts: [{{name: {name}, context: {{cluster: {name}, user: {name}}}}}]\n"
        )
    }

    #[test]
    fn several_files_are_merged_as_kubectl_does() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::write(path("a"), kubeconfig("a", false)).unwrap();
        fs::write(path("b"), kubeconfig("b", true)).unwrap();
        fs::write(path("c:d"), kubeconfig("c", true)).unwrap();
        fs::write(path("broken"), "{{{").unwrap();
        let list = |names: &[&str]| {
            PathBuf::from(env::join_paths(names.iter().map(|name| path(name))).unwrap())
        };

        let merged = read_kubeconfig(&list(&["a", "none", "b"])).unwrap();
        assert_eq!(merged.current_context.as_deref(), Some("b"));
        let names: Vec<&str> = merged.contexts.iter().map(|one| one.name.as_str()).collect();
        assert_eq!(names, ["a", "b"]);

        let mut trailing = list(&["b"]).into_os_string();
        trailing.push(":");
        let alone = read_kubeconfig(Path::new(&trailing)).unwrap();
        assert_eq!(alone.current_context.as_deref(), Some("b"));
        let colon = read_kubeconfig(&path("c:d")).unwrap();
        assert_eq!(colon.current_context.as_deref(), Some("c"));

        let error = read_kubeconfig(&list(&["none", "neither"])).unwrap_err();
        assert!(error.to_string().contains("none"), "{error}");
        assert!(matches!(read_kubeconfig(&list(&["a", "broken"])), Err(KubeconfigError::Parse(_))));
    }
}
