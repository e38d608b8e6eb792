//! Listing keys by prefix, page by page: `GET /v1/kv?prefix=`.

use std::time::Duration;
use std::vec;

use bytes::Bytes;
use serde::Deserialize;

use crate::client::{Call, Client};
use crate::error::Error;
use crate::kv::Consistency;
use crate::path::Query;
use crate::retry::Kind;
use crate::wire::Base64;

/// The most keys that a node puts on one page.
pub const PAGE_KEYS_MAX: u16 = 1000;

/// Which keys, and what of them. The default: all keys in byte order, without their values.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct List {
    /// What the keys begin with; empty for all keys.
    pub prefix: String,
    /// Only keys behind this one, in the order of the list.
    pub after: Option<String>,
    /// How many keys a page has at most, 1 to [`PAGE_KEYS_MAX`]; `None`: as many as a node likes. A page also
    /// ends at 4 MiB.
    pub page_keys: Option<u16>,
    /// Whether to ask for the values too.
    pub values: bool,
    /// Whether to go from the last key to the first.
    pub reverse: bool,
    /// How fresh the first page is; no later page is older than it.
    pub consistency: Consistency,
}

/// One page: a part of one state of the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The store's revision that the page reflects.
    pub revision: u64,
    /// The keys, in order.
    pub items: Vec<Item>,
    /// What to give as [`List::after`] for the next page; `None` behind the last key.
    pub next: Option<String>,
}

/// A key of a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// The key.
    pub key: String,
    /// The revision that last wrote it.
    pub revision: u64,
    /// The revision that created it.
    pub created_revision: u64,
    /// The size of the value in bytes.
    pub size: u64,
    /// The media type it was written with.
    pub content_type: Option<String>,
    /// Until the key goes away by itself; `None`: it stays.
    pub expires_in: Option<Duration>,
    /// The value; only if it was asked for.
    pub value: Option<Bytes>,
}

/// A walk through all pages of a list.
///
/// A key that is there all the time is seen exactly once. Later pages come from the store as it is then,
/// from whichever node answers, and are never older than those before.
pub struct Walk {
    client: Client,
    /// What to ask for next.
    list: List,
    /// The revision that the next page reflects at least.
    at: u64,
    /// What is left of the last page.
    items: vec::IntoIter<Item>,
    /// The last page was read.
    ended: bool,
}

#[derive(Deserialize)]
struct PageBody {
    revision: u64,
    items: Vec<ItemBody>,
    next: Option<String>,
}

#[derive(Deserialize)]
struct ItemBody {
    key: String,
    revision: u64,
    created_revision: u64,
    size: u64,
    content_type: Option<String>,
    expires_in_ms: Option<u64>,
    value: Option<Base64>,
}

impl Client {
    /// The first page of a list.
    pub async fn kv_list(&self, list: &List) -> Result<Page, Error> {
        self.kv_page(list, 0).await
    }

    /// The keys of a list one by one; pages are asked for as they are needed.
    pub fn kv_walk(&self, list: List) -> Walk {
        Walk { client: self.clone(), list, at: 0, items: Vec::new().into_iter(), ended: false }
    }

    /// The page that reflects `at` at least.
    async fn kv_page(&self, list: &List, at: u64) -> Result<Page, Error> {
        let page: PageBody = self.call(Call::get(Kind::Read, list.path(at))).await?.json()?;
        Ok(Page {
            revision: page.revision,
            items: page.items.into_iter().map(Item::from).collect(),
            next: page.next,
        })
    }
}

impl List {
    fn path(&self, at: u64) -> String {
        let mut query = self.consistency.ask(Query::of("/v1/kv").with("prefix", &self.prefix));
        if let Some(after) = &self.after {
            query = query.with("after", after);
        }
        if let Some(limit) = self.page_keys {
            query = query.with("limit", &limit.to_string());
        }
        for (name, wanted) in [("values", self.values), ("reverse", self.reverse)] {
            if wanted {
                query = query.with(name, "true");
            }
        }
        if at > 0 {
            query = query.with("at", &at.to_string());
        }
        query.finish()
    }
}

impl Walk {
    /// The next key; `None` behind the last.
    pub async fn next(&mut self) -> Result<Option<Item>, Error> {
        loop {
            if let Some(item) = self.items.next() {
                return Ok(Some(item));
            }
            match self.next_page().await? {
                Some(page) => self.items = page.items.into_iter(),
                None => return Ok(None),
            }
        }
    }

    /// The next whole page; `None` behind the last. What [`Walk::next`] has left of a page is skipped.
    pub async fn next_page(&mut self) -> Result<Option<Page>, Error> {
        self.items = Vec::new().into_iter();
        if self.ended {
            return Ok(None);
        }
        let page = self.client.kv_page(&self.list, self.at).await?;
        self.at = self.at.max(page.revision);
        match &page.next {
            Some(next) => self.list.after = Some(next.clone()),
            None => self.ended = true,
        }
        Ok(Some(page))
    }
}

impl From<ItemBody> for Item {
    fn from(body: ItemBody) -> Self {
        Self {
            key: body.key,
            revision: body.revision,
            created_revision: body.created_revision,
            size: body.size,
            content_type: body.content_type,
            expires_in: body.expires_in_ms.map(Duration::from_millis),
            value: body.value.map(|value| value.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Item, List, PAGE_KEYS_MAX};
    use crate::kv::Consistency;
    use crate::responder::{Responder, json};

    #[test]
    fn what_is_asked_for_is_in_the_query() {
        assert_eq!(List::default().path(0), "/v1/kv?prefix=");
        let list = List {
            prefix: "a/".into(),
            after: Some("a/b c".into()),
            page_keys: Some(PAGE_KEYS_MAX),
            values: true,
            reverse: true,
            consistency: Consistency::MaxStaleness(Duration::from_millis(1500)),
        };
        assert_eq!(
            list.path(7),
            "/v1/kv?prefix=a%2F&max_staleness=1500ms&after=a%2Fb%20c&limit=1000&values=true&reverse=true&at=7"
        );
        let local = List { consistency: Consistency::Local, ..List::default() };
        assert_eq!(local.path(0), "/v1/kv?prefix=&consistency=local");
    }

    #[tokio::test]
    async fn a_walk_asks_page_by_page_and_for_none_that_is_older() {
        let item = |key: &str| {
            format!(
                r#"{{"key":"{key}","revision":3,"created_revision":2,"size":2,"content_type":null,"expires_in_ms":null}}"#
            )
        };
        let last = r#"{"key":"c","revision":4,"created_revision":4,"size":2,"content_type":"x/y","expires_in_ms":1500,"value":"AP8="}"#;
        let server = Responder::start(vec![
            json(&format!(r#"{{"revision":9,"items":[{},{}],"next":"b"}}"#, item("a"), item("b"))),
            json(r#"{"revision":10,"items":[],"next":"bb"}"#),
            json(&format!(r#"{{"revision":9,"items":[{last}],"next":null}}"#)),
        ])
        .await;
        let mut walk = server.client().kv_walk(List::default());
        let mut keys = Vec::new();
        let mut found = None;
        while let Some(item) = walk.next().await.unwrap() {
            keys.push(item.key.clone());
            found = Some(item);
        }
        assert_eq!(keys, ["a", "b", "c"]);
        let expected = Item {
            key: "c".into(),
            revision: 4,
            created_revision: 4,
            size: 2,
            content_type: Some("x/y".into()),
            expires_in: Some(Duration::from_millis(1500)),
            value: Some(vec![0, 255].into()),
        };
        assert_eq!(found, Some(expected));
        assert_eq!(walk.next().await.unwrap(), None);
        assert_eq!(
            server.lines(),
            ["GET /v1/kv?prefix=", "GET /v1/kv?prefix=&after=b&at=9", "GET /v1/kv?prefix=&after=bb&at=10"]
        );
    }
}
