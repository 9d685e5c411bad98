//! A Kubernetes API server over HTTP, as much of it as an agent on a node talks to.
//!
//! Lists and watches of pods, namespaces and nodes with selectors, paging, bookmarks and expired
//! histories; events are taken and kept; DaemonSets can be read. It knows who asked for what, and
//! refuses what has not been granted. The clients are real, so the answers must be right; what
//! no agent asks for answers 404 with a `Status`, as a real server does.

mod access;
mod count;
mod reply;
mod resource;
mod routes;
mod select;
mod store;
mod trouble;
mod watch;

use std::{
    collections::BTreeSet,
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};
use tokio::sync::{oneshot, watch::Receiver, watch::Sender};

pub use self::{
    access::{Access, Rule},
    count::{Came, Count},
    resource::Resource,
    store::{Events, Refusal},
    trouble::{Asked, Trouble},
};
use self::{
    count::Counter,
    store::{Key, Store},
    trouble::Troubles,
};

/// As many as a real server's kernel queue takes.
const BACKLOG: i32 = 1024;

/// How long a child may take from fork to exec, on a machine that has much else to do.
const FREE_WITHIN: Duration = Duration::from_secs(5);

/// The running API and the controls that tests have over it.
#[derive(Debug)]
pub struct Api {
    shared: Shared,
    address: SocketAddr,
    /// Bound but never listening: keeps the port while the server is stopped, connections to it
    /// are refused.
    _reserved: Socket,
    server: Mutex<Option<Server>>,
}

#[derive(Debug)]
struct Server {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

/// The store, and the news that it has changed.
#[derive(Clone, Debug)]
struct Shared {
    store: Arc<Mutex<Store>>,
    news: Arc<Sender<u64>>,
    troubles: Troubles,
    counter: Counter,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn subscribe(&self) -> Receiver<u64> {
        self.news.subscribe()
    }

    fn change<T>(&self, change: impl FnOnce(&mut Store) -> T) -> T {
        let mut store = self.lock();
        let result = change(&mut store);
        self.news.send_replace(store.version());
        result
    }

    /// Keeps a request on record; an error if the client may not make it.
    fn admit(&self, access: Access) -> Result<(), String> {
        let mut store = self.lock();
        let refused = match &store.granted {
            Some(rules) if !rules.iter().any(|rule| rule.allows(&access)) => Some(access.refusal()),
            _ => None,
        };
        store.accesses.insert(access);
        refused.map_or(Ok(()), Err)
    }

    fn count(&self, verb: &str, resource: &str) {
        *self.lock().requests.entry((verb.to_owned(), resource.to_owned())).or_default() += 1;
    }
}

impl Api {
    /// Starts an API without any object, on a port of its own on 127.0.0.1.
    pub fn start() -> Result<Self> {
        let reserved = bind(0)?;
        let address = reserved
            .local_addr()
            .ok()
            .and_then(|address| address.as_socket())
            .context("the API's socket has no address")?;
        let api = Self {
            shared: Shared {
                store: Arc::default(),
                news: Arc::new(Sender::new(0)),
                troubles: Troubles::default(),
                counter: Counter::default(),
            },
            address,
            _reserved: reserved,
            server: Mutex::new(None),
        };
        api.resume()?;
        Ok(api)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// A kubeconfig (JSON, which is YAML) without credentials.
    pub fn kubeconfig(&self) -> String {
        self.kubeconfig_of(&json!({}))
    }

    /// The same for a client whose requests are to be told from others': all carry this bearer token.
    pub fn kubeconfig_with_token(&self, token: &str) -> String {
        self.kubeconfig_of(&json!({ "token": token }))
    }

    fn kubeconfig_of(&self, user: &Value) -> String {
        json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "testbed", "cluster": {"server": self.url()}}],
            "users": [{"name": "agent", "user": user}],
            "contexts": [{"name": "testbed", "context": {"cluster": "testbed", "user": "agent"}}],
            "current-context": "testbed",
        })
        .to_string()
    }

    /// Takes the server down: open watches are cut, connections are refused. The objects stay and
    /// can be changed meanwhile.
    pub fn stop(&self) {
        let server = self.server.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Server { stop, thread }) = server {
            // Fails only when the thread has ended already.
            let _ = stop.send(());
            let _ = thread.join();
        }
    }

    /// Brings the server back on the same port after [`Self::stop`].
    pub fn resume(&self) -> Result<()> {
        let mut server = self.server.lock().unwrap_or_else(PoisonError::into_inner);
        if server.is_some() {
            bail!("the API already runs");
        }
        let socket = bind_again(self.address.port())?;
        socket.listen(BACKLOG).context("listen for API clients")?;
        socket.set_nonblocking(true).context("set O_NONBLOCK")?;
        let listener = TcpListener::from(socket);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("start the API's runtime")?;
        let router = routes::router(self.shared.clone());
        let (stop, stopped) = oneshot::channel();
        let thread = thread::Builder::new()
            .name("testbed-api".into())
            .spawn(move || {
                runtime.block_on(async {
                    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else {
                        return;
                    };
                    tokio::select! {
                        _ = axum::serve(listener, router) => {}
                        _ = stopped => {}
                    }
                });
                // Dropping the runtime drops every connection's task, and the socket with it.
            })
            .context("start the API's thread")?;
        *server = Some(Server { stop, thread });
        Ok(())
    }

    /// Creates or replaces an object; `metadata.uid` and `creationTimestamp` are filled in.
    pub fn put(&self, resource: Resource, mut object: Value) -> Value {
        let metadata = &mut object["metadata"];
        if metadata["uid"].is_null()
            && let Ok(uid) = crate::container::random_uid()
        {
            metadata["uid"] = json!(uid);
        }
        if metadata["creationTimestamp"].is_null() {
            metadata["creationTimestamp"] = json!(crate::pod::now());
        }
        self.shared.change(|store| store.put(resource, object))
    }

    /// Creates or replaces a namespace with these labels.
    pub fn put_namespace(&self, name: &str, labels: &[(&str, &str)]) -> Value {
        self.put_namespace_with(name, labels, &[])
    }

    /// Creates or replaces a namespace with these labels and annotations.
    pub fn put_namespace_with(
        &self,
        name: &str,
        labels: &[(&str, &str)],
        annotations: &[(&str, &str)],
    ) -> Value {
        let annotations: serde_json::Map<_, _> =
            annotations.iter().map(|(k, v)| ((*k).to_owned(), json!(v))).collect();
        let mut all = serde_json::Map::new();
        // The API server sets this one itself.
        all.insert("kubernetes.io/metadata.name".into(), json!(name));
        all.extend(labels.iter().map(|(k, v)| ((*k).to_owned(), json!(v))));
        self.put(
            Resource::Namespaces,
            json!({
                "metadata": {"name": name, "labels": all, "annotations": annotations},
                "spec": {"finalizers": ["kubernetes"]},
                "status": {"phase": "Active"},
            }),
        )
    }

    /// Applies a JSON merge patch; `None` when there is no such object.
    pub fn patch(
        &self,
        resource: Resource,
        namespace: Option<&str>,
        name: &str,
        patch: &Value,
    ) -> Option<Value> {
        let key = key(resource, namespace, name);
        self.shared.change(|store| store.update(&key, |object| routes::merge(object, patch)))
    }

    /// Sets or, with `None`, removes a namespace's annotation.
    pub fn annotate_namespace(&self, name: &str, key: &str, value: Option<&str>) -> Option<Value> {
        let patch = json!({"metadata": {"annotations": {key: value}}});
        self.patch(Resource::Namespaces, None, name, &patch)
    }

    /// Sets or, with `None`, removes a namespace's label.
    pub fn label_namespace(&self, name: &str, label: &str, value: Option<&str>) -> Option<Value> {
        let patch = json!({"metadata": {"labels": {label: value}}});
        self.patch(Resource::Namespaces, None, name, &patch)
    }

    /// Replaces an object's `status` and nothing else, as kubelet does.
    pub(crate) fn set_status(&self, namespace: &str, name: &str, status: Value) {
        let key = key(Resource::Pods, Some(namespace), name);
        self.shared.change(|store| store.update(&key, |object| object["status"] = status));
    }

    /// Deletes an object; gives its last state.
    pub fn delete(&self, resource: Resource, namespace: Option<&str>, name: &str) -> Option<Value> {
        let key = key(resource, namespace, name);
        self.shared.change(|store| store.delete(&key))
    }

    /// One object.
    pub fn get(&self, resource: Resource, namespace: Option<&str>, name: &str) -> Option<Value> {
        self.shared.lock().get(&key(resource, namespace, name)).cloned()
    }

    /// Every object of a resource.
    pub fn list(&self, resource: Resource) -> Vec<Value> {
        self.shared
            .lock()
            .list(resource, None, &select::Selector::default(), None, None)
            .map(|page| page.items)
            .unwrap_or_default()
    }

    /// Every Event that clients have posted, of either API group.
    pub fn events(&self) -> Vec<Value> {
        let mut all = self.list(Resource::Events);
        all.extend(self.list(Resource::CoreEvents));
        all
    }

    /// What becomes of clients' attempts to write Events from now on.
    pub fn take_events(&self, events: Events) {
        self.shared.change(|store| store.events = events);
    }

    /// One recorded watch event: its object is put or deleted.
    pub fn replay(&self, event: &Value) -> Result<()> {
        let object = &event["object"];
        let metadata = &object["metadata"];
        let Some(name) = metadata["name"].as_str() else {
            bail!("a recorded event has no object: {event}");
        };
        match event["type"].as_str() {
            Some("ADDED" | "MODIFIED") => {
                self.put(Resource::Pods, object.clone());
            }
            Some("DELETED") => {
                self.delete(Resource::Pods, metadata["namespace"].as_str(), name);
            }
            other => bail!("a recorded event has the type {other:?}"),
        }
        Ok(())
    }

    /// Forgets all history: every open watch ends with an ERROR event of code 410, pages from
    /// earlier versions are answered with 410, watches as [`Self::refuse_old_watches_with`] says.
    pub fn expire_history(&self) {
        self.shared.change(Store::expire);
    }

    /// How watches from versions that are too old are answered from now on.
    pub fn refuse_old_watches_with(&self, refusal: Refusal) {
        self.shared.lock().refusal = refusal;
    }

    /// From now on this decides about each request; where it names no trouble, all is well. Watches
    /// that are open go on, but for silence: [`Self::cut_watches`] has them taken up again.
    pub fn trouble(&self, hook: impl Fn(&Asked<'_>) -> Option<Trouble> + Send + Sync + 'static) {
        self.shared.troubles.set(Some(Arc::new(hook)));
    }

    /// All is well again.
    pub fn trouble_is_over(&self) {
        self.shared.troubles.set(None);
    }

    /// Every open watch ends, as one whose time is up.
    pub fn cut_watches(&self) {
        self.shared.change(|store| store.cuts += 1);
    }

    /// Watches that begin from now on have a bookmark this often.
    pub fn bookmark_every(&self, pause: Duration) {
        self.shared.lock().bookmark_every = pause;
    }

    /// Says this line in every open watch of a resource, whatever it is.
    pub fn say(&self, resource: Resource, line: &str) {
        self.shared.change(|store| store.said.push((resource, format!("{line}\n").into_bytes())));
    }

    /// How many requests came, whatever became of them.
    pub fn asked(&self) -> u64 {
        self.shared.troubles.asked()
    }

    /// How many requests came with this verb (`list`, `watch`, `get`, `create`, ...) for a
    /// resource's plural name.
    pub fn requests(&self, verb: &str, resource: &str) -> u64 {
        self.shared
            .lock()
            .requests
            .get(&(verb.to_owned(), resource.to_owned()))
            .copied()
            .unwrap_or_default()
    }

    /// What the requests with this verb for a resource's plural name have cost so far.
    pub fn cost(&self, verb: &str, resource: &str) -> Count {
        self.shared.counter.count(verb, resource)
    }

    /// What all requests have cost so far.
    pub fn total_cost(&self) -> Count {
        self.shared.counter.total()
    }

    /// The requests that came since then, in the order in which they were answered.
    pub fn came(&self, since: Instant) -> Vec<Came> {
        self.shared.counter.came(since)
    }

    /// Everything that clients have asked for, granted or not.
    pub fn accesses(&self) -> BTreeSet<Access> {
        self.shared.lock().accesses.clone()
    }

    /// From now on clients may do what these rules say and nothing else; before, they may do all.
    pub fn grant(&self, rules: Vec<Rule>) {
        self.shared.lock().granted = Some(rules);
    }

    /// The current resource version.
    pub fn version(&self) -> u64 {
        self.shared.lock().version()
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        self.stop();
    }
}

fn key(resource: Resource, namespace: Option<&str>, name: &str) -> Key {
    let namespace = namespace.unwrap_or_default().to_owned();
    (resource, namespace, name.to_owned())
}

/// As [`bind`], on a port that was listened on a moment ago: a child that another thread has just
/// forked still holds the old listener, until its own exec.
fn bind_again(port: u16) -> Result<Socket> {
    let deadline = Instant::now() + FREE_WITHIN;
    loop {
        match bind(port) {
            Err(error) if is_in_use(&error) && Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(1));
            }
            result => return result,
        }
    }
}

fn is_in_use(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::AddrInUse)
}

/// With SO_REUSEADDR, so that the port's reservation and its server can both be bound to it.
fn bind(port: u16) -> Result<Socket> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let bound = || {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        Ok::<_, io::Error>(socket)
    };
    bound().with_context(|| format!("bind the API to {address}"))
}
