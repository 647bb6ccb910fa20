"""Tables of users' utterances and the agent's answers; `phrases` draws from them.

In `PHRASINGS`, `{a}` and `{b}` stand in the order in which the answer names them. What is held
out does not occur in training: whole phrasings, and whole subjects of what the agent refuses.
"""

from typing import Final, Literal

Split = Literal["train", "held_out"]
Kind = Literal[
    "sum", "difference", "greeting", "wellbeing", "name", "age", "ability", "audible", "introduction",
    "repeat", "thanks", "goodbye", "unknown", "stop", "backchannel",
]  # fmt: skip

PHRASINGS: Final[dict[tuple[Kind, Split], tuple[str, ...]]] = {
    ("sum", "train"): (
        "what is {a} plus {b}",
        "what's {a} plus {b}",
        "{a} plus {b}",
        "how much is {a} plus {b}",
        "tell me what {a} plus {b} is",
        "please add {a} and {b}",
        "can you add {a} and {b}",
        "what do you get for {a} plus {b}",
        "and what is {a} plus {b}",
        "now {a} plus {b} please",
        "what's the sum of {a} and {b}",
        "add {a} and {b}",
        "{a} and {b}",
        "could you tell me {a} plus {b}",
        "calculate {a} plus {b}",
        "do you know what {a} plus {b} is",
        "hey what's {a} plus {b}",
        "i'd like to know {a} plus {b}",
        "what does {a} plus {b} make",
        "how much are {a} and {b}",
    ),
    ("sum", "held_out"): (
        "can you tell me what {a} plus {b} is",
        "please tell me how much is {a} plus {b}",
        "now what is {a} plus {b} please",
        "and {a} plus {b}",
        "what would {a} plus {b} be",
        "okay so {a} plus {b}",
    ),
    ("difference", "train"): (
        "what is {a} minus {b}",
        "what's {a} minus {b}",
        "{a} minus {b}",
        "how much is {a} minus {b}",
        "tell me what {a} minus {b} is",
        "please subtract {b} from {a}",
        "what is {a} take away {b}",
        "what do you get for {a} minus {b}",
        "and what is {a} minus {b}",
        "now {a} minus {b} please",
        "subtract {b} from {a}",
        "could you tell me {a} minus {b}",
        "calculate {a} minus {b}",
        "do you know what {a} minus {b} is",
        "hey what's {a} minus {b}",
        "i'd like to know {a} minus {b}",
        "{a} take away {b}",
    ),
    ("difference", "held_out"): (
        "can you tell me what {a} minus {b} is",
        "please tell me how much is {a} minus {b}",
        "now what is {a} minus {b} please",
        "can you subtract {b} from {a}",
        "what would {a} minus {b} be",
        "okay so {a} minus {b}",
    ),
    ("greeting", "train"): (
        "hello", "hi", "hi there", "good morning", "hello there", "good evening", "hey", "good afternoon",
        "hello hello", "hey there", "hello computer",
    ),
    ("greeting", "held_out"): ("good morning there", "hey hello"),
    ("wellbeing", "train"): (
        "how are you", "how are you today", "hello how are you", "how do you do", "how are you doing",
        "are you okay", "how is it going", "hi how are you",
    ),
    ("wellbeing", "held_out"): ("hi how are you today", "and how are you"),
    ("name", "train"): (
        "who are you", "what are you", "what is your name", "tell me who you are",
        "please tell me your name", "what's your name", "do you have a name", "who am i talking to",
    ),
    ("name", "held_out"): ("can you tell me who you are", "and what's your name"),
    ("age", "train"): ("how old are you", "what is your age", "tell me how old you are", "what's your age"),
    ("age", "held_out"): ("and how old are you", "can you tell me your age"),
    ("ability", "train"): (
        "what can you do", "what do you know", "can you help me", "how can you help me",
        "tell me what you can do", "what are you able to do", "help", "what can i ask you",
        "what should i say",
    ),
    ("ability", "held_out"): ("please tell me what you can do", "what can you do for me"),
    ("audible", "train"): (
        "can you hear me", "do you hear me", "hello can you hear me", "are you there", "is anybody there",
        "is this working", "can you hear me now", "are you listening", "testing one two three",
    ),
    ("audible", "held_out"): ("hi can you hear me", "hello are you there"),
    ("introduction", "train"): (
        "my name is {n}", "i am {n}", "hello my name is {n}", "i'm {n}", "hi i'm {n}", "my name's {n}",
    ),
    ("introduction", "held_out"): ("hello i am {n}", "hi my name is {n}"),
    ("repeat", "train"): (
        "repeat that", "can you repeat that", "say that again", "please say that again",
        "could you say that again", "what did you say", "sorry what did you say", "pardon",
        "again please", "one more time", "please repeat",
    ),
    ("repeat", "held_out"): ("can you say that again please", "sorry could you repeat that"),
    ("thanks", "train"): (
        "thank you", "thanks", "thank you very much", "thanks a lot", "okay thank you", "great thanks",
        "thank you so much", "that's great thank you",
    ),
    ("thanks", "held_out"): ("thank you a lot", "okay thanks"),
    ("goodbye", "train"): (
        "goodbye", "bye", "bye bye", "see you later", "good night", "okay goodbye", "see you", "bye for now",
    ),
    ("goodbye", "held_out"): ("goodbye see you later", "okay bye bye"),
    ("stop", "train"): (
        "stop", "stop please", "okay stop", "please stop", "be quiet", "that's enough", "stop talking",
        "stop it", "no stop",
    ),
    ("stop", "held_out"): ("stop now", "please be quiet"),
    ("backchannel", "train"): (
        "okay", "mm hm", "uh huh", "yes", "yeah", "right", "i see", "oh", "ah okay", "hm", "sure", "yep",
    ),
    ("backchannel", "held_out"): ("oh okay", "all right", "mhm yes"),
}  # fmt: skip

# As it is written, with capitals and a full stop; a kind that is not here is answered with
# arithmetic ("sum", "difference"), with the answer before ("repeat") or not at all.
ANSWERS: Final[dict[Kind, str]] = {
    "greeting": "Hello, how can I help you? I can add and subtract.",
    "wellbeing": "I am fine, thank you.",
    "name": "I am a small voice model.",
    "age": "I do not know how old I am.",
    "ability": "I can add and subtract numbers up to twenty.",
    "audible": "Yes, I can hear you.",
    "introduction": "Nice to meet you.",
    "thanks": "You are welcome.",
    "goodbye": "Goodbye.",
    "unknown": "Sorry, I can only add and subtract.",
}
# How often each is asked; arithmetic has the most to learn, refusals have the most varied questions.
# Those that are spoken beside a question ("stop", "backchannel") are placed by `sessions`.
SHARES: Final[dict[Kind, float]] = {
    "sum": 0.18,
    "difference": 0.16,
    "greeting": 0.04,
    "wellbeing": 0.03,
    "name": 0.035,
    "age": 0.03,
    "ability": 0.04,
    "audible": 0.04,
    "introduction": 0.025,
    "repeat": 0.065,
    "thanks": 0.03,
    "goodbye": 0.025,
    "stop": 0.03,
    "backchannel": 0.03,
    "unknown": 0.24,
}

NAMES: Final[dict[Split, tuple[str, ...]]] = {
    "train": (
        "anna", "tom", "peter", "maria", "john", "sarah", "david", "emma", "paul", "lucy", "james", "julia",
        "ben", "nina", "alex", "laura", "daniel", "olivia", "jack", "sophie", "robert", "hannah", "mark",
        "amy",
        "chris", "rachel", "kevin", "susan", "max", "claire", "oscar", "zoe", "henry", "grace", "eric",
        "molly",
    ),
    "held_out": ("michael", "lisa", "george", "clara", "sam", "kate"),
}  # fmt: skip

SUBJECTS: Final[dict[Split, tuple[str, ...]]] = {
    "train": (
        "the weather", "the train", "the old house", "the garden", "the radio", "the river", "the kitchen",
        "a doctor", "the blue door", "the meeting", "the window", "my phone", "the president", "the moon",
        "my mother", "my father", "our neighbour", "the teacher", "the children", "a friend of mine",
        "my cat",
        "the bird", "a green bicycle", "the bus", "the airport", "the station", "the hospital", "the shop",
        "breakfast", "lunch", "the party", "the film", "this book", "that picture", "the letter", "the game",
        "basketball", "the queen", "the king of spain", "the capital of italy", "the sea", "the mountain",
        "the snow", "the traffic", "the computer", "the internet", "a good hotel", "the money", "the price",
    ),
    "held_out": (
        "my sister", "your friend", "this song", "a red car", "my brother", "our dog", "the news",
        "the morning bus", "dinner", "her letter", "football", "the capital of france",
    ),
}  # fmt: skip
PREDICATES: Final = (
    "is very nice today", "comes home late", "needs some water", "was not here yesterday", "looks strange",
    "will be cold tomorrow", "goes to the city", "makes a loud noise", "sleeps in the sun", "costs too much",
    "should be open", "runs along the road", "has a new colour", "is under the table", "can wait",
    "is broken", "is too far away", "starts at nine", "has been sold", "makes me happy", "is not mine",
    "was better before", "will never work", "is on the left", "tastes good", "needs to be cleaned",
)  # fmt: skip
REQUESTS: Final[dict[Split, tuple[str, ...]]] = {
    "train": (
        "play some music", "turn on the light", "call my mother", "read me a story", "set an alarm",
        "open the window", "find a good restaurant", "write a short letter", "stop the car",
        "order a pizza", "switch off the heating", "tell me a joke", "what time is it",
        "what's the weather like", "where are you from", "do you speak french", "what day is it today",
        "who made you", "i am hungry", "do you like me", "what is the meaning of life",
        "what's the date today", "how late is it", "is it going to rain", "will it be sunny tomorrow",
        "what's the temperature outside", "tell me something funny", "tell me something interesting",
        "do you know a poem", "sing me a lullaby", "play a game with me", "play the radio",
        "put on some jazz",
        "make it louder", "turn down the volume", "turn off the lamp", "close the door", "lock the door",
        "call a taxi", "call the doctor", "send a message", "send an email to my boss", "write an email",
        "translate this sentence", "say something in spanish", "do you speak chinese", "spell my name",
        "remind me to buy milk", "wake me up at seven", "start a timer", "buy me a ticket", "order a coffee",
        "find my keys", "where am i", "where do you live", "where is the nearest bank",
        "show me the way home",
        "show me a map", "how do i get to the station", "who won the game", "who is the president",
        "who wrote this book", "why is the sky blue", "how tall is the tower",
        "how many people live in london",
        "how do i cook rice", "what should i eat tonight", "what should i wear", "give me some advice",
        "i am tired", "i am bored", "i don't feel well", "i love you", "i hate this", "you are stupid",
        "that was wrong", "that's not right", "are you human", "are you a person", "are you alive",
        "are you married", "do you have friends", "do you have feelings", "do you sleep", "do you dream",
        "can you see me", "can you sing", "can you dance", "can you drive a car", "can you read",
        "can you write a letter", "what is your favourite colour", "what do you like", "what are you doing",
        "what are you thinking", "what happened yesterday", "what's new", "what's on television",
        "what is love", "what is a computer", "how does it work", "read the newspaper", "tell me a secret",
        "tell me about yourself", "tell me about the war", "let's go outside", "let's talk about music",
        "i want to go home", "i need some help with my homework", "i lost my wallet", "it's cold in here",
        "the coffee is ready", "we are going on holiday", "she is my sister", "he is not here",
    ),
    "held_out": (
        "sing a song", "book a table", "show me the pictures", "buy some bread", "what's the time",
        "tell me a story", "how is the weather today", "are you a robot", "do you speak german",
    ),
}  # fmt: skip
QUESTIONS: Final = (
    "where is {s}", "when did you see {s}", "why do you like {s}", "who painted {s}", "do you remember {s}",
    "what happened to {s}", "how far away is {s}", "did you hear about {s}", "is {s} ready",
    "what do you think of {s}", "tell me about {s}", "how old is {s}", "how is {s}", "what is {s}",
    "who is {s}", "what's wrong with {s}", "can you find {s}", "i am looking for {s}", "have you seen {s}",
    "when does {s} start", "how much does {s} cost", "is there {s} near here", "show me {s}",
    "what can {s} do", "what colour is {s}", "do you like {s}", "who brought {s}",
)  # fmt: skip
BEYOND: Final[dict[Split, tuple[str, ...]]] = {
    "train": (
        "what is {a} times {b}", "what is {a} divided by {b}", "how much is {a} times {b}",
        "please multiply {a} by {b}", "{a} times {b} please", "count to {a}", "what comes after {a}",
        "{a} times {b}", "what is {a} percent of {b}", "multiply {a} and {b}", "divide {a} by {b}",
        "is {a} more than {b}", "what is half of {a}", "what is the square root of {a}",
        "what comes before {a}",
        "double {a}", "count backwards from {a}", "wake me at {a}", "set a timer for {a} minutes",
        "i am {a} years old", "it is {a} o'clock", "i have {a} apples",
    ),
    "held_out": ("what's {a} times {b}", "{a} divided by {b}", "count from one to {a}"),
}  # fmt: skip
# Hesitations; the first also in the middle of a question.
HUMS: Final = ("um", "uh", "er")
FILLERS: Final = (*HUMS, "well", "let me see", "so")
CORRECTIONS: Final = ("no", "sorry", "no sorry", "i mean", "no wait")
