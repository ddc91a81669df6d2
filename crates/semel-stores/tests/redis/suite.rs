use semel::conformance;
use semel_stores::redis::RedisOptions;
use super::support::Shifted;

#[tokio::test]
async fn the_redis_store_passes_the_suite() {
    let url = std::env::var("REDIS_URL").unwrap();
    let report = conformance::run(&Shifted::connect(&url, RedisOptions::default()).await).await;
    assert!(report.failed.is_empty(), "{report}");
    println!("{report}");
}
