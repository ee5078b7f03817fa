"""What a worker reports of itself is the sum of what it did."""

from actors.stats import EngineCounts, Gauges


def test_counts_add_up() -> None:
    counts = EngineCounts()
    counts.add_request(prompt_tokens=10, cached_tokens=0, sampled_tokens=5, seconds=0.5)
    counts.add_request(prompt_tokens=20, cached_tokens=16, sampled_tokens=7, seconds=1.0)
    counts.add_update(seconds=0.25)

    stats = counts.stats(num_running=3, gauges=Gauges())

    assert (stats.num_requests, stats.num_prompt_tokens, stats.num_cached_tokens) == (2, 30, 16)
    assert (stats.num_sampled_tokens, stats.generate_s) == (12, 1.5)
    assert (stats.num_updates, stats.update_s) == (1, 0.25)
    assert (stats.num_running, stats.kv_usage) == (3, None)
