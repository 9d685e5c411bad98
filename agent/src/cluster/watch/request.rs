//! What kube's watcher has no option for: its requests are rewritten on their way.

use std::ops::RangeInclusive;

use axum::http::{Uri, uri::PathAndQuery};

/// Seconds after which the server ends a watch and it is taken up again from where it was; well
/// below the time after which a connection that died silently would be noticed otherwise. Which of these is
/// left to chance, for each watch anew: the nodes of a cluster, which have all come back to the same server
/// within some seconds, would come back to it together ever after.
pub(super) const WATCH_SECONDS: RangeInclusive<u32> = 90..=120;

const VERSION: &str = "resourceVersion";
/// Any version will do that the server has in its cache.
const ANY_VERSION: &str = "resourceVersion=0";
/// Goes with it.
const NOT_OLDER: &str = "resourceVersionMatch=NotOlderThan";
/// The watch begins with what there is.
const STREAMED: &str = "sendInitialEvents=true";

pub(super) fn is_watch(uri: &Uri) -> bool {
    has(uri.query().unwrap_or_default(), "watch=true")
}

fn has(query: &str, parameter: &str) -> bool {
    query.split('&').any(|one| one == parameter)
}

/// How old a list may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Age {
    /// As old as the server's cache is: there is nothing to go back on.
    Any,
    /// Not older than this version. The server's cache answers once it is as new.
    Since(String),
    /// It is the newest. Before Kubernetes 1.31 it is read from etcd.
    Newest,
}

/// The version from which a watch is taken up.
pub(super) fn version(uri: &Uri) -> Option<&str> {
    let mut parameters = uri.query()?.split('&').filter_map(|one| one.split_once('='));
    let version = parameters.find(|(name, _)| *name == VERSION)?.1;
    is_watch(uri).then_some(version).filter(|version| *version != "0")
}

/// Has a watch end at a moment of its own, and a list be as new as it has to be: of several API servers one
/// may lag behind what another has told, and a pod that is missing from its list would count as gone. A streamed list
/// is the newest, always.
pub(super) fn rewrite(uri: &mut Uri, age: &Age) {
    let Some(query) = uri.query() else { return };
    let is_stream = has(query, STREAMED);
    let is_list = !has(query, "watch=true");
    let rewritten: Vec<String> = query
        .split('&')
        .filter_map(|one| match (one, age) {
            (ANY_VERSION, _) if is_stream => None,
            (ANY_VERSION, Age::Since(version)) if is_list => Some(format!("{VERSION}={version}")),
            (ANY_VERSION | NOT_OLDER, Age::Newest) if is_list => None,
            _ => match one.split_once('=') {
                Some(("timeoutSeconds", _)) => {
                    Some(format!("timeoutSeconds={}", fastrand::u32(WATCH_SECONDS)))
                }
                _ => Some(one.to_owned()),
            },
        })
        .collect();
    let mut parts = std::mem::take(uri).into_parts();
    let path = parts.path_and_query.as_ref().map_or("/", PathAndQuery::path);
    let all = format!("{path}?{}", rewritten.join("&"));
    parts.path_and_query = Some(all.try_into().expect("parts of a query are a query"));
    *uri = Uri::from_parts(parts).expect("only the query is another one");
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn uri(query: &str) -> Uri {
        format!("https://server/api/v1/pods?{query}").parse().unwrap()
    }

    fn rewritten(query: &str, age: &Age) -> String {
        let mut uri = uri(query);
        rewrite(&mut uri, age);
        assert_eq!((uri.host(), uri.path()), (Some("server"), "/api/v1/pods"));
        uri.query().unwrap().to_owned()
    }

    #[test]
    fn a_streamed_list_is_never_an_old_one() {
        let asked = "&watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&resourceVersion=0";
        let expected = "&watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan";
        for age in [Age::Any, Age::Since("12".to_owned()), Age::Newest] {
            assert_eq!(rewritten(asked, &age), expected);
        }
    }

    #[test]
    fn a_list_is_as_new_as_it_has_to_be() {
        let asked =
            "&fieldSelector=spec.nodeName%3Da&resourceVersion=0&resourceVersionMatch=NotOlderThan";
        assert_eq!(rewritten(asked, &Age::Any), asked);
        let since =
            "&fieldSelector=spec.nodeName%3Da&resourceVersion=12&resourceVersionMatch=NotOlderThan";
        assert_eq!(rewritten(asked, &Age::Since("12".to_owned())), since);
        assert_eq!(rewritten(asked, &Age::Newest), "&fieldSelector=spec.nodeName%3Da");
    }

    #[test]
    fn a_watch_goes_on_from_where_it_was() {
        let asked = "&watch=true&allowWatchBookmarks=true&resourceVersion=12";
        assert_eq!(rewritten(asked, &Age::Newest), asked);
        assert_eq!(version(&uri(asked)), Some("12"));
        assert_eq!(version(&uri("&watch=true&sendInitialEvents=true&resourceVersion=0")), None);
        assert_eq!(version(&uri("&limit=2&resourceVersion=12")), None, "of a list");
    }

    #[test]
    fn watches_that_begin_together_do_not_end_together() {
        let seconds: BTreeSet<u32> = (0..200)
            .map(|_| rewritten("watch=true&timeoutSeconds=120", &Age::Newest))
            .map(|query| query.rsplit_once('=').unwrap().1.parse().unwrap())
            .collect();
        assert!(seconds.len() > 5, "{seconds:?}");
        assert!(seconds.iter().all(|seconds| WATCH_SECONDS.contains(seconds)));
    }
}
