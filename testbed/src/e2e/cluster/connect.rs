//! Reaching the cluster.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig, KubeconfigError},
};
use tokio::time::timeout;

/// For the first answer: a cluster that takes longer is no place to measure milliseconds.
const ANSWER_WITHIN: Duration = Duration::from_secs(15);

/// Why there is no cluster.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The kubeconfig is not one.
    #[error(
        "kubeconfig {path} cannot be used: {source}; name another with --kubeconfig, or one of its contexts with --context"
    )]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<KubeconfigError>,
    },
    /// Nobody answers.
    #[error(
        "the cluster at {url} cannot be reached: {reason}; check that it runs, and the server and \
         the credentials in the kubeconfig"
    )]
    Unreachable {
        /// Its address.
        url: String,
        /// The last error.
        reason: String,
    },
}

/// A cluster that answers.
pub(super) struct Connected {
    pub(super) client: Client,
    pub(super) url: String,
    pub(super) version: String,
}

// === impl ConnectError ===

impl ConnectError {
    pub(super) fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
    }
}

pub(super) async fn connect(
    kubeconfig: &Path,
    context: Option<&str>,
) -> Result<Connected, ConnectError> {
    let unusable =
        |source| ConnectError::Kubeconfig { path: kubeconfig.to_owned(), source: Box::new(source) };
    let file = Kubeconfig::read_from(kubeconfig).map_err(unusable)?;
    let chosen =
        KubeConfigOptions { context: context.map(str::to_owned), ..KubeConfigOptions::default() };
    let config = Config::from_custom_kubeconfig(file, &chosen).await.map_err(unusable)?;
    let url = config.cluster_url.to_string();
    let unreachable = |reason| ConnectError::Unreachable { url: url.clone(), reason };
    let client = Client::try_from(config).map_err(|error| unreachable(error.to_string()))?;
    let version = match timeout(ANSWER_WITHIN, client.apiserver_version()).await {
        Ok(Ok(info)) => info.git_version,
        Ok(Err(error)) => return Err(unreachable(super::reason(&error))),
        Err(_) => {
            let within = humantime::format_duration(ANSWER_WITHIN);
            return Err(unreachable(format!("no answer within {within}")));
        }
    };
    Ok(Connected { client, url, version })
}
