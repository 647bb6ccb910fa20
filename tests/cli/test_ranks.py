"""A rank does not take its own absence for the silence of another."""

from pipeline.cli.ranks import AwakeSilence


def test_an_absence_is_not_a_silence():
    """What passed while this process was suspended is left out, for as long as the silence lasts."""
    now_s = 100.0
    silence = AwakeSilence(lambda: now_s)
    now_s += 0.1
    assert silence.without_absences(0.1) == 0.1
    now_s += 12.1  # suspended for 12 s
    assert abs(silence.without_absences(12.2) - 0.2) < 1e-6
    for _ in range(50):
        now_s += 0.1
        left_s = silence.without_absences(now_s - 100.0)
    assert abs(left_s - 5.2) < 1e-6


def test_a_silence_of_another_rank_counts():
    """While this process was awake every second does."""
    now_s = 100.0
    silence = AwakeSilence(lambda: now_s)
    for _ in range(100):
        now_s += 0.1
        left_s = silence.without_absences(now_s - 100.0)
    assert abs(left_s - 10.0) < 1e-6
