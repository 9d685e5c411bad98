//! The cases on a real cluster.
//!
//! Whatever is made there is on record before it is asked for, and is removed at the end, also after
//! an error or Ctrl-C. What somebody else has installed is used as it is, and stays.

mod cleanup;
mod connect;
mod diagnose;
mod image;
mod install;
mod manifest;
mod object;
mod patience;
mod play;
mod rollout;
#[cfg(test)]
mod tests;

use std::{error::Error as _, path::PathBuf, time::Duration};

use futures::{StreamExt as _, stream};
use k8s_openapi::{
    api::core::v1::{Namespace, ServiceAccount},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api, Client, ResourceExt as _,
    api::{ListParams, PostParams},
    discovery::ApiResource,
};

use tokio::time::{Instant, sleep};

pub use self::connect::ConnectError;
use self::{
    cleanup::{Cleanup, Made},
    patience::{briefly, patiently},
    play::{Places, Player},
};
use super::{HOLD, Report, Row, cases};
use crate::container::random_suffix;

/// Who applies, as server-side apply knows it: what it has made is its own to remove.
const MANAGER: &str = "holdfast-e2e";

/// The label by which namespaces are told to be a run's.
const MANAGED_BY: &str = "app.kubernetes.io/managed-by";

/// Between two looks for something that takes a moment.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How many cases run at a time: many pods that start at once would measure kubelet's queue.
const AT_A_TIME: usize = 4;

/// What a cluster test is asked for.
#[derive(Clone, Debug)]
pub struct Options {
    /// The cluster.
    pub kubeconfig: PathBuf,
    /// The context of the kubeconfig, if it is another than its current one.
    pub context: Option<String>,
    /// How to bring the image to the node, and the archive that it is in.
    pub import: Option<(String, PathBuf)>,
    /// The image, if it is another than the manifest's.
    pub image: Option<String>,
    /// What to apply.
    pub manifest: PathBuf,
    /// Leave everything as it is at the end.
    pub keep: bool,
    /// For the rollout, and for each case.
    pub timeout: Duration,
}

/// Why there is no table.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// No cluster.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The image could not be brought to the node.
    #[error(transparent)]
    Import(#[from] image::ImportError),
    /// The manifest is not one.
    #[error(transparent)]
    Manifest(#[from] manifest::ManifestError),
    /// The API server refuses something.
    #[error("failed to {what}: {}", reason(.source))]
    Api {
        /// What was to be done.
        what: String,
        /// Its words.
        #[source]
        source: Box<kube::Error>,
    },
    /// No random numbers.
    #[error("failed to name the namespaces: {0:#}")]
    Names(anyhow::Error),
    /// A document's `apiVersion` is none.
    #[error("failed to apply {what}: {source}")]
    ApiVersion {
        /// The document.
        what: String,
        /// Why.
        #[source]
        source: kube::core::gvk::ParseGroupVersionError,
    },
    /// The agents are somebody else's.
    #[error(
        "DaemonSet {0} is there and was not made by this test: leave --image out to test it as it is, \
         or uninstall it first"
    )]
    NotOurs(String),
    /// The agents do not get ready.
    #[error("DaemonSet {name} is not rolled out after {}: {state}", humantime::format_duration(*.after))]
    Rollout {
        /// The DaemonSet.
        name: String,
        /// How long it was waited for.
        after: Duration,
        /// How far it is, and what its pods say.
        state: String,
    },
    /// The cluster's controllers do not work.
    #[error("namespace {0} gets no service account: check that kube-controller-manager runs")]
    NoAccount(String),
    /// A signal came.
    #[error("interrupted")]
    Interrupted,
}

/// How a run has ended.
#[derive(Debug)]
pub struct Outcome {
    /// The table.
    pub report: Result<Report, ClusterError>,
    /// What could not be removed, and why.
    pub left: Vec<String>,
}

// === impl ClusterError ===

impl ClusterError {
    fn api(what: impl Into<String>) -> impl FnOnce(kube::Error) -> Self {
        let what = what.into();
        move |source| Self::Api { what, source: Box::new(source) }
    }

    /// Whether the cluster could not be reached, or not any more.
    #[must_use]
    pub fn is_unreachable(&self) -> bool {
        match self {
            Self::Connect(error) => error.is_unreachable(),
            Self::Api { source, .. } => {
                matches!(**source, kube::Error::Service(_) | kube::Error::HyperError(_))
            }
            _ => false,
        }
    }
}

/// The server's own words, of an error that has some; else what it comes from in the end.
fn reason(error: &kube::Error) -> String {
    if let kube::Error::Api(status) = error {
        return format!("{} ({})", status.message, status.code);
    }
    let text = error.to_string();
    let innermost = std::iter::successors(error.source(), |&cause| cause.source()).last();
    match innermost.map(ToString::to_string) {
        Some(cause) if !text.contains(&cause) => format!("{text}: {cause}"),
        _ => text,
    }
}

/// Installs, plays all cases, and cleans up; ends early, and cleans up, when `interrupted` returns, and
/// at once when it returns again.
///
/// # Errors
///
/// [`ClusterError`] in the outcome; what can be removed has been.
pub async fn run(options: &Options, mut interrupted: impl AsyncFnMut()) -> Outcome {
    let client = match connect::connect(&options.kubeconfig, options.context.as_deref()).await {
        Ok(client) => client,
        Err(error) => return Outcome { report: Err(error.into()), left: Vec::new() },
    };
    say(&format!("cluster {} ({})", client.url, client.version));
    let cleanup = Cleanup::new(client.client.clone());
    let report = tokio::select! {
        biased;
        () = interrupted() => Err(ClusterError::Interrupted),
        report = work(options, &client, &cleanup) => report,
    };
    if options.keep {
        say(&format!("kept: {}", cleanup.made().join(", ")));
        return Outcome { report, left: Vec::new() };
    }
    say("cleaning up");
    let left = tokio::select! {
        biased;
        () = interrupted() => {
            cleanup.made().into_iter().map(|made| format!("{made}: interrupted")).collect()
        }
        left = cleanup.run() => left,
    };
    Outcome { report, left }
}

async fn work(
    options: &Options,
    connected: &connect::Connected,
    cleanup: &Cleanup,
) -> Result<Report, ClusterError> {
    let client = &connected.client;
    if let Some((command, archive)) = &options.import {
        say(&format!("importing {}", archive.display()));
        image::import(command, archive).await?;
    }
    let documents = manifest::read(&options.manifest, options.image.as_deref())?;
    let installed = install::apply(client, cleanup, documents).await;
    // In any case, and after what was applied: the last goes first, pods before their agents.
    let taken_over = take_over_namespaces(client, cleanup).await;
    let installed = installed?;
    taken_over?;
    if !installed.ours && options.image.is_some() {
        return Err(ClusterError::NotOurs(installed.to_string()));
    }
    say(&format!("waiting for the rollout of DaemonSet {installed}"));
    let agents = rollout::wait(client, &installed, options.timeout).await?;
    let places = make_namespaces(client, cleanup, options.timeout).await?;
    let image = installed.image.clone();
    let player = Player {
        client,
        places,
        image: &image,
        nodes: rollout::nodes(&agents),
        installed,
        timeout: options.timeout,
        keep: options.keep,
    };
    let mut rows = vec![rollout::row(&agents)];
    rows.extend(play_all(&player).await);
    let mut report = Report::new(connected.url.clone(), rows);
    report.version = Some(connected.version.clone());
    report.image = Some(image);
    report.agents = agents;
    Ok(report)
}

async fn play_all(player: &Player<'_>) -> Vec<Row> {
    let cases = cases();
    let playing = cases.iter().map(|case| async move {
        say(&format!("case {}", case.name));
        player.rows(case).await
    });
    let rows: Vec<Vec<Row>> = stream::iter(playing).buffered(AT_A_TIME).collect().await;
    rows.concat()
}

/// What an earlier run was told to keep, or could not remove, goes with this one's.
async fn take_over_namespaces(client: &Client, cleanup: &Cleanup) -> Result<(), ClusterError> {
    let api: Api<Namespace> = Api::all(client.clone());
    let mine = ListParams::default().labels(&format!("{MANAGED_BY}={MANAGER}"));
    let list = briefly(async || api.list(&mine).await).await;
    for namespace in list.map_err(ClusterError::api("list the namespaces of earlier runs"))? {
        cleanup.add(Made { uid: namespace.uid(), ..made_namespace(&namespace.name_any()) });
    }
    Ok(())
}

fn made_namespace(name: &str) -> Made {
    Made {
        resource: ApiResource::erase::<Namespace>(&()),
        namespace: None,
        name: name.to_owned(),
        uid: None,
    }
}

/// One namespace for each way in which a pod can be chosen, under names that nobody has.
async fn make_namespaces(
    client: &Client,
    cleanup: &Cleanup,
    timeout: Duration,
) -> Result<Places, ClusterError> {
    let unique = random_suffix().map_err(ClusterError::Names)?;
    let places = Places {
        enabled: format!("holdfast-e2e-{unique}"),
        not_enabled: format!("holdfast-e2e-{unique}-plain"),
        labelled: format!("holdfast-e2e-{unique}-labelled"),
    };
    for (name, enabled) in
        [(&places.enabled, true), (&places.not_enabled, false), (&places.labelled, false)]
    {
        let mut namespace = Namespace {
            metadata: ObjectMeta { name: Some(name.clone()), ..ObjectMeta::default() },
            ..Namespace::default()
        };
        namespace.labels_mut().insert(MANAGED_BY.into(), MANAGER.into());
        if enabled {
            namespace.labels_mut().insert(HOLD.into(), "enabled".into());
        }
        let made = made_namespace(name);
        cleanup.add(made.clone());
        let parameters =
            PostParams { field_manager: Some(MANAGER.into()), ..PostParams::default() };
        let api = Api::all(client.clone());
        let created = match briefly(async || api.create(&parameters, &namespace).await).await {
            // Nobody else has this name: an earlier try whose answer was lost.
            Err(kube::Error::Api(status)) if status.code == 409 => api.get(name).await,
            created => created,
        };
        let created = created.map_err(ClusterError::api(format!("create namespace {name}")))?;
        cleanup.is_there(&made, created.metadata.uid.as_ref());
    }
    for name in [&places.enabled, &places.not_enabled, &places.labelled] {
        wait_for_account(client, name, timeout).await?;
    }
    Ok(places)
}

/// No pod is admitted to a namespace before its service account is there, which a controller makes.
async fn wait_for_account(
    client: &Client,
    namespace: &str,
    timeout: Duration,
) -> Result<(), ClusterError> {
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace);
    let deadline = Instant::now() + timeout;
    loop {
        let account = patiently(deadline, async || accounts.get_opt("default").await).await;
        let what = format!("look for the service account of namespace {namespace}");
        if account.map_err(ClusterError::api(what))?.is_some() {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(ClusterError::NoAccount(namespace.to_owned()));
        }
        sleep(LOOK_EVERY).await;
    }
}

/// Progress, for a person.
fn say(line: &str) {
    eprintln!("e2e: {line}");
}
