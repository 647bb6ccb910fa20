"""The content and timing of conversations: phrases and answers, tokens, sessions laid out in frames."""
