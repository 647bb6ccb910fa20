"""What is said, by whom, and when: phrases and answers, tokens, sessions laid out in frames."""
