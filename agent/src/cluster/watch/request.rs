//! What kube's watcher has no option for: its requests are rewritten on their way.

use std::ops::RangeInclusive;

use axum::http::{Uri, uri::PathAndQuery};

/// Seconds after which the server ends a watch and it is taken up again from where it was; well
/// below the time after which a connection that died silently would be noticed otherwise. Which of these is
/// left to chance, for each watch anew: the nodes of a cluster, which have all come back to the same server
/// within some seconds, would come back to it together ever after.
pub(super) const WATCH_SECONDS: RangeInclusive<u32> = 90..=120;

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

/// Has a watch end at a moment of its own, and a list tell of nothing that is older than what has been
/// heard: of several API servers one may lag behind, and a pod that is missing from its list would count
/// as gone. A streamed list never does; another one may where it is the first (`has_listed` tells that it
/// is not), as there is nothing to go back on and any other is read from etcd before Kubernetes 1.31.
pub(super) fn rewrite(uri: &mut Uri, has_listed: bool) {
    let Some(query) = uri.query() else { return };
    let is_stream = has(query, STREAMED);
    let is_watch = has(query, "watch=true");
    let rewritten: Vec<String> = query
        .split('&')
        .filter(|one| match *one {
            // A watch that is taken up again has a version of its own.
            ANY_VERSION => !is_stream && (is_watch || !has_listed),
            // A stream has to say so all the same.
            NOT_OLDER => is_stream || !has_listed,
            _ => true,
        })
        .map(|one| match one.split_once('=') {
            Some(("timeoutSeconds", _)) => {
                format!("timeoutSeconds={}", fastrand::u32(WATCH_SECONDS))
            }
            _ => one.to_owned(),
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

    fn rewritten(query: &str, has_listed: bool) -> String {
        let mut uri: Uri = format!("https://server/api/v1/pods?{query}").parse().unwrap();
        rewrite(&mut uri, has_listed);
        assert_eq!((uri.host(), uri.path()), (Some("server"), "/api/v1/pods"));
        uri.query().unwrap().to_owned()
    }

    #[test]
    fn a_streamed_list_is_never_an_old_one() {
        let asked = "&watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&resourceVersion=0";
        let expected = "&watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan";
        assert_eq!(rewritten(asked, false), expected);
        assert_eq!(rewritten(asked, true), expected);
    }

    #[test]
    fn only_the_first_list_may_be_an_old_one() {
        let asked =
            "&fieldSelector=spec.nodeName%3Da&resourceVersion=0&resourceVersionMatch=NotOlderThan";
        assert_eq!(rewritten(asked, false), asked);
        assert_eq!(rewritten(asked, true), "&fieldSelector=spec.nodeName%3Da");
    }

    #[test]
    fn a_watch_goes_on_from_where_it_was() {
        let asked = "&watch=true&allowWatchBookmarks=true&resourceVersion=12";
        assert_eq!(rewritten(asked, true), asked);
    }

    #[test]
    fn watches_that_begin_together_do_not_end_together() {
        let seconds: BTreeSet<u32> = (0..200)
            .map(|_| rewritten("watch=true&timeoutSeconds=120", true))
            .map(|query| query.rsplit_once('=').unwrap().1.parse().unwrap())
            .collect();
        assert!(seconds.len() > 5, "{seconds:?}");
        assert!(seconds.iter().all(|seconds| WATCH_SECONDS.contains(seconds)));
    }
}
