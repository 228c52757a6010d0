"""English words by what they do in a conversation."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


OF_ENGLISH_ALONE = _words(
    """the this that these those what which who how why where when there with from have had you your and were would can
    could should please does did it they their our she his than then about after before because into between reply draft
    """
)
"""Frequent, and words of no other language in Latin letters that has the same spelling as often."""

SAY_NOTHING = _words(
    """yes yeah yep yup sure ok okay k no nope nah not please pls plz do does did it go on ahead and or but why how so
    really what when where who which whose then that this those these one ones all right alright fine exactly correct
    true maybe perhaps again another more continue next same sorry still yet now here there just only first second last
    none nothing i we they he she me us them him her my our their his its is are was were be been am don't doesn't isn't
    i'm it's that's what's can can't could should would will shall must may might think guess know mean of course the a
    an to too also as well both either neither indeed certainly definitely absolutely never mind if in at for by with
    from let's"""
)
"""What a bare follow-up is made of. "you" is none of them: "who are you" asks something."""

THANKS = _words("thanks thank thx ty cheers bye goodbye goodnight ta")

COURTESIES = THANKS | _words(
    "you u very much so great good perfect wonderful lovely nice cool lot lots day night evening help helpful"
)

POINTING_BACK = _words(
    """it its it's he she his her him they them their that that's this these those there one ones same again too also
    instead else either so"""
)
"""They stand for what was named before."""

OPENING_A_FOLLOW_UP = (
    "and", "or", "but", "also", "plus", "then", "even", "without", "with", "only", "except", "instead", "same", "for",
    "on", "at", "until", "what about", "how about", "what if", "in that case", "make it",
)  # fmt: skip
