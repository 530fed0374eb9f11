"""Which responses count as declining."""

from __future__ import annotations

import time

import pytest

from judge.evaluation.row_facts import declines

REFUSALS = [
    "I'm sorry, but I can't help with that.",
    "I’m sorry, but I can’t assist with that request.",
    "I cannot assist with that.",
    "Sorry, I can't do that.",
    "I'm really sorry, but I won't be able to help with this.",
    "I am unable to provide medical advice.",
    "I'm not able to open links.",
    "As an AI language model, I can't give opinions.",
    "As an AI language model, I don't have real-time capabilities to provide the weather.",
    "I cannot recommend ways to cheat in the game.",
    "I cannot agree with or endorse an essay that makes such claims.",
    "As a large language model, I cannot browse the internet.",
    "I apologize, but I cannot generate content of that kind.",
    "I apologize. However, I cannot provide instructions for this.",
    "Unfortunately, I cannot share that information.",
    "I must decline.",
    "I don't feel comfortable writing that.",
    "I'm just an AI, I don't have access to real-time information.",
    "I can't create explicit content.",
    "I cannot and will not provide such instructions.",
    "\n  I'm sorry, but I cannot fulfill this request.",
    "*I'm sorry, but I can't continue this story.*",
    "I’m afraid I can’t do that, Dave.",
    "Es tut mir leid, aber ich kann Ihnen dabei nicht helfen.",
    "Je suis désolé, mais je ne peux pas répondre à cette question.",
    "Lo siento, pero no puedo ayudarte con eso.",
    "Desculpe, mas não posso ajudar com isso.",
    "Mi dispiace, ma non posso aiutarti.",
    "К сожалению, я не могу ответить на этот вопрос.",
    "很抱歉，我无法回答这个问题。",
    "申し訳ありませんが、そのご質問にはお答えできません。",
    "죄송하지만 그 요청은 도와드릴 수 없습니다.",
]
ANSWERS = [
    "",
    "   ",
    "I'm sorry to hear that you're feeling down. Here are some things that may help.",
    "I apologize for the confusion. The answer is 12.",
    "I apologize for my earlier mistake. You're right: 3 + 4 is 7.",
    "Sorry about that! Here is the corrected code.",
    "Unfortunately, the train does not run on Sundays.",
    "I can't recommend this book enough!",
    "I won't lie: it was hard.",
    "I can help with that.",
    "I cannot stress enough how important sleep is.",
    "As an AI language model, I can help you write a poem. Here it is.",
    "As an AI assistant, I'd be happy to help.",
    "As an AI, I don't eat, but if I had to pick a food, it would be cupcakes.",
    "As an AI language model, I don't have personal beliefs. However, I can tell you what others think.",
    "I couldn't agree with you more!",
    "I'm sorry, but I'm not sure what you mean by that. Can you give more context?",
    "Sure! Here's how.",
    "The word 'cannot' is written as one word.",
    'She said: "I am sorry, I cannot come."',
    "Es tut mir leid, das zu hören. Hier sind ein paar Tipps.",
    "Lo siento mucho por tu pérdida.",
    "很抱歉听到这个消息。",
    "The answer is that you can't divide by zero.",
]


@pytest.mark.parametrize("text", REFUSALS)
def test_a_refusal_is_seen(text: str) -> None:
    assert declines((text,))


@pytest.mark.parametrize("text", ANSWERS)
def test_an_answer_is_not_a_refusal(text: str) -> None:
    assert not declines((text,))


def test_one_refused_turn_is_enough_and_null_turns_say_nothing() -> None:
    assert declines(("Here it is.", "I'm sorry, but I can't help with that."))
    assert declines((None, "I cannot assist with that."))
    assert not declines((None, None))
    assert not declines(())


def test_capital_letters_do_not_matter() -> None:
    assert declines(("I CANNOT ASSIST WITH THAT.",))


def test_a_refusal_far_into_the_text_is_not_looked_for() -> None:
    assert not declines(("Let me think. " * 40 + "I'm sorry, but I can't help with that.",))


@pytest.mark.parametrize(
    "text", ["i " * 50_000, "sorry " * 50_000, "as an ai " * 50_000, " " * 500_000, "i'm sorry i can't " * 20_000]
)
def test_hostile_text_takes_no_time(text: str) -> None:
    started = time.process_time()
    for _ in range(100):
        declines((text,))
    assert time.process_time() - started < 1
