"""One language model split over several processes: the leader, its followers, their messages."""
