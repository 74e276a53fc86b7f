//! Lists that come in pages, read to their end.

/// The largest page servers give.
pub const MAX_PAGE: i32 = 500;

/// Reads every page. `fetch` takes the token of the page and answers its items and the token of the next.
pub async fn all<T>(
    mut fetch: impl AsyncFnMut(String) -> Result<(Vec<T>, String), tonic::Status>,
) -> Result<Vec<T>, tonic::Status> {
    let mut items = Vec::new();
    let mut token = String::new();
    loop {
        let (page, next) = fetch(token).await?;
        items.extend(page);
        if next.is_empty() {
            return Ok(items);
        }
        token = next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn pages_are_read_in_order_to_the_last() {
        let pages = [("", vec![1, 2], "a"), ("a", vec![], "b"), ("b", vec![3], "")];
        let all = all(async |token: String| {
            let page = pages.iter().find(|page| page.0 == token).unwrap();
            Ok((page.1.clone(), page.2.to_owned()))
        });
        assert_eq!(all.await.unwrap(), [1, 2, 3]);
    }
}
