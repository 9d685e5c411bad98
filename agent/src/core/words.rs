//! Words that the log, the Events and the commands share.

/// So many connections.
#[must_use]
pub fn connections(count: u64) -> String {
    format!("{count} connection{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_not_many() {
        let told = [0, 1, 2].map(connections);
        assert_eq!(told, ["0 connections", "1 connection", "2 connections"]);
    }
}
