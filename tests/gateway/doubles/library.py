"""A configuration with a task that answers from documents; some subjects of the documents occur in no example."""

from tests.gateway.doubles.config_folder import ConfigFolder

COLLECTION = "handbook"
"""The collection that the path "handbook" searches."""

DOCUMENTS = {
    "lighthouses": "Lighthouses warn ships of rocks. The lamp of an old lighthouse burned oil, and its keeper wound "
    "the clockwork that turned the lens every few hours.",
    "glass": "Glass is made of sand, soda and lime, which are melted in a furnace at about 1,500 degrees. Venice moved "
    "its furnaces to the island of Murano in 1291 for fear of fires.",
    "canals": "Canals carried coal before there were railways. A lock lifts a boat from one level of the water to the "
    "next.",
    "clocks": "Pendulum clocks were invented by Christiaan Huygens in 1656. A pendulum of one metre takes a second for "
    "a swing.",
}
VOLCANOES = (
    "Volcanoes erupt when magma rises through the crust. The ash of Krakatoa's eruption in 1883 coloured sunsets "
    "around the world, and the sound was heard 4,800 kilometres away."
)
"""A document on a subject that no example has."""
ON_VOLCANOES = "How far away was the eruption of Krakatoa heard?"
"""A question about that document, unlike all examples."""
OF_NO_TASK = "Please cancel my subscription and refund the last invoice"

EXAMPLES = {
    "library": (
        "What did the lamp of an old lighthouse burn?",
        "How often did the keeper wind the clockwork of the lens?",
        "Why were lighthouses built on rocks?",
        "What is glass made of?",
        "When did Venice move its glass furnaces to Murano?",
        "How hot is a furnace that melts sand for glass?",
        "What did canals carry before the railways?",
        "How does a lock lift a boat on a canal?",
        "Who invented the pendulum clock?",
        "How long does a pendulum of one metre take for a swing?",
    ),
    "music": (
        "Play some jazz in the kitchen",
        "Skip this song",
        "Turn the music down a little",
        "Put on my running playlist",
        "Pause the album",
        "Play the latest record by that singer again",
        "Shuffle my favourite tracks",
        "Stop the radio",
        "Louder please, I love this one",
        "Add this song to my playlist",
    ),
    "alarms": (
        "Wake me up at seven tomorrow",
        "Set a timer for ten minutes",
        "Cancel my alarm for Monday",
        "Snooze for five more minutes",
        "How long until my timer ends",
        "Set an alarm on weekdays at half past six",
        "Delete all alarms",
        "Remind me in an hour",
        "Change my wake up time to eight",
        "Stop the timer",
    ),
}


def write_library(config: ConfigFolder) -> None:
    """Replaces the tasks of a configuration by one that answers from documents and two that do not."""
    paths = {"library": "handbook", "music": "small_talk", "alarms": "small_talk"}
    config.examples = {task: [(text, None) for text in texts] for task, texts in EXAMPLES.items()}
    config.tasks = {
        task: {"examples": f"tasks/{task}.jsonl", "policy": {"fixed": path}} for task, path in paths.items()
    }
    config.paths = {name: config.paths[name] for name in ("handbook", "small_talk", "safe_start")}
