"""Words without meaning in many languages: what made-up tables are filled with.

A text is drawn word by word from a short list of its language's commonest words, with digits and punctuation mixed in
at a given rate, and cut to its length. Nothing of any table is in it.
"""

from __future__ import annotations

import random
import re
from functools import lru_cache
from itertools import accumulate

# Code of py3langid -> script, common words. Languages without spaces between words have `_UNSPACED` below.
_WORDS: dict[str, tuple[str, str]] = {
    "en": (
        "latin",
        "the of and to in a is that for it as was with be by on not he this are or his from at which but have an had "
        "they you were their one all we can her has there been if more when will would who so no out up into than "
        "them only some could time other about then its our two may first any my such like over new because people "
        "way even most after also made must through years where much good should well many system number example "
        "result value function between language different answer question write following important information "
        "provide understand development environment particularly however consider approach temperature",
    ),
    "es": (
        "latin",
        "el la de que y en un ser se no haber por con su para como estar tener le lo todo pero más hacer o poder "
        "decir este ir otro ese si me ya ver porque dar cuando muy sin vez mucho saber qué sobre mi alguno mismo "
        "también hasta año dos querer entre así primero desde grande eso ni nos llegar pasar tiempo ella día bien "
        "ejemplo",
    ),
    "fr": (
        "latin",
        "le de un être et à il avoir ne je son que se qui ce dans en du elle au pour pas vous par sur faire plus "
        "dire me on mon lui nous comme mais pouvoir avec tout y aller voir bien où sans tu ou leur homme si deux "
        "très même autre notre aussi celui donner moi encore jour trouver dernier depuis toujours exemple réponse "
        "être",
    ),
    "de": (
        "latin",
        "der die und in den von zu das mit sich des auf für ist im dem nicht ein eine als auch es an werden aus er "
        "hat dass sie nach wird bei einer um am sind noch wie einem über einen so zum war haben nur oder aber vor "
        "zur bis mehr durch man sein wurde wenn können zwischen Beispiel Antwort Möglichkeit Verfügung Entwicklung",
    ),
    "it": (
        "latin",
        "il di che e la a un essere in non per una con avere si da come io questo ma lo se fare qui tutto bene più "
        "potere anche dire mio molto andare quello ci sapere dove volere solo altro quando perché cosa così stare "
        "nostro vedere ancora prima sempre uno due tempo esempio grande della degli nella sulla questa",
    ),
    "pt": (
        "latin",
        "o de que e do da em um para é com não uma os no se na por mais as dos como mas foi ao ele das tem à seu sua "
        "ou ser quando muito há nos já está eu também só pelo pela até isso ela entre era depois sem mesmo aos ter "
        "seus quem nas me esse eles estão você tinha foram essa num nem suas meu às minha têm exemplo",
    ),
    "nl": (
        "latin",
        "de het een van en in is dat op te zijn met voor niet aan er om ook als dan maar bij nog uit naar heeft hij "
        "ze wordt door over kan deze worden tot meer geen wat jaar hebben veel dit mensen moet zou zeer tijd goed "
        "wij onder tussen voorbeeld antwoord mogelijk",
    ),
    "pl": (
        "latin",
        "i w nie na z do to się jest że o jak ale po co tak za od przez czy dla już tylko być może był jego ich "
        "który jeszcze bardzo gdy tego przed przy tym lub także więc kiedy ponieważ wszystko przykład odpowiedź "
        "możliwość również między będzie",
    ),
    "tr": (
        "latin",
        "bir ve bu için çok ne da o ile gibi daha ama en kadar sonra her olarak olan var değil ben sen biz ya zaman "
        "iyi şey mi büyük yeni ilk iki önce nasıl diye kendi şekilde örnek çünkü böyle göre arasında olduğu",
    ),
    "vi": (
        "latin",
        "của và là có không được cho trong một người này những với các để khi đã cũng từ như về ra làm năm thì đến "
        "nhiều hơn trên vào phải sẽ rất theo lại nhưng nước ngày việc sau hai bạn câu trả lời ví dụ thời gian",
    ),
    "id": (
        "latin",
        "yang dan di ini itu dengan untuk tidak dari dalam akan pada juga saya ke karena adalah ada bisa kami oleh "
        "atau mereka lebih sudah telah seperti anda kita tersebut dapat hanya orang tahun banyak contoh jawaban "
        "menjadi",
    ),
    "ru": (
        "cyrillic",
        "и в не на я быть он с что а по это она этот к но они мы весь который из у то за свой так от как для вы год "
        "человек мочь такой его только или ещё бы себя один время рука когда другой очень если первый новый пример "
        "ответ большой самый должен между через после можно потому система",
    ),
    "uk": (
        "cyrillic",
        "і в не на я бути він з що а по це вона цей до але вони ми весь який із у то за свій так від як для ви рік "
        "людина могти такий його тільки або ще б себе один час рука коли інший дуже якщо перший новий приклад "
        "відповідь",
    ),
    "el": (
        "greek",
        "και το να του η της με που την από για είναι στο οι των τα σε δεν θα τον ένα μια αυτό στη στην ότι αλλά "
        "όπως έχει πιο μας πολύ όταν μόνο ήταν μετά χρόνια πρώτη παράδειγμα απάντηση",
    ),
    "he": (
        "hebrew",
        "של את לא על זה הוא כי גם אני עם היא או אם כל יש היה אבל מה אין רק עוד בין כמו אחד לפני אחרי שנים טוב מאוד "
        "יותר כאשר אנחנו דוגמה תשובה אפשר צריך",
    ),
    "ar": (
        "arabic",
        "في من على إلى أن هذا التي الذي عن مع ما لا كان هذه ذلك قد كل بعد بين أو لم عند حيث كما هو هي قبل يمكن أكثر "
        "خلال ثم أي غير حتى مثل العالم يوم سنة سؤال جواب مثال",
    ),
    "fa": (
        "arabic",
        "و در به از که این را با است برای آن یک خود تا کرد بر هم نیز گفت می شود شده او ما اما یا باید پس چه همه بود "
        "هر بین سال پاسخ پرسش مثال می‌توان بیشتر",
    ),
    "hi": (
        "devanagari",
        "के का की में है और को से यह पर नहीं एक भी कर हैं ने तो कि था वह इस लिए हो जो साथ या अपने कुछ दिया गया होता "
        "सकते बाद समय लोग उदाहरण उत्तर प्रश्न",
    ),
    "ko": (
        "hangul",
        "이 그 것은 수 있는 하는 및 등 더 대한 위해 때문에 그리고 하지만 또한 같은 많은 모든 경우 사람 시간 방법 "
        "질문 대답 예를 들어 합니다 있습니다 됩니다 것입니다 우리는 그는 매우 중요한 다른 함께 사용",
    ),
    "th": (
        "thai",
        "ที่ และ การ เป็น ใน ของ มี ได้ ไม่ ว่า จะ ให้ กับ คน นี้ ความ ไป มา แต่ ก็ หรือ จาก โดย ต้อง เมื่อ ถ้า ตัวอย่าง คำตอบ เพราะ มาก",
    ),
    "zh": (
        "han",
        "的 是 在 不 了 有 和 人 这 中 大 为 上 个 国 我 以 要 他 时 来 用 们 生 到 作 地 于 出 就 分 对 成 会 可 主 "
        "发 年 动 同 工 也 能 下 过 子 说 产 种 面 而 方 后 多 定 行 学 法 所 民 得 经 我们 可以 一个 没有 什么 问题 "
        "因为 例如 需要 使用 如果 这个 时间 方法 不同 重要",
    ),
    "ja": (
        "kana",
        "の に は を た が で て と し れ さ ある いる も する から な こと として い や など なる へ か だ これ "
        "その あと それ ため です ます ました という また ような 場合 質問 回答 例えば 方法 時間 必要 使う 人 日本 "
        "私",
    ),
}
LANGUAGES: tuple[str, ...] = tuple(_WORDS)
_UNSPACED = frozenset({"zh", "ja", "th"})
# The language that stands for a script where the row's own is written in another.
SCRIPT_LANGUAGE = {
    "latin": "en",
    "cyrillic": "ru",
    "greek": "el",
    "hebrew": "he",
    "arabic": "ar",
    "devanagari": "hi",
    "hangul": "ko",
    "thai": "th",
    "han": "zh",
    "kana": "ja",
}
_SAMPLE = 2000  # characters of a text that its script is told by

_MARKED = ". , . , . , : ; ( ) - - 1 2 3 10 25 2023 0.5 = == + * ** / _ { } [0] () ` ``` ' \" # ## > & % $ | !"
# Marks that belong to letters, which Python's \w does not count.
_MARKS = "\u0300-\u036f\u0591-\u05c7\u064b-\u065f\u0900-\u0963\u0e31-\u0e4e\u200c\u200d"
_NOT_SYMBOL = re.compile(rf"[^\W\d_]|\s|[{_MARKS}]")
_LINE_EVERY = 14  # words between line breaks


def written_in(language: str, script: str) -> str:
    """Return the language to write in: the row's own if it is known and has this script, else the script's."""
    if language in _WORDS and _WORDS[language][0] == script:
        return language
    return SCRIPT_LANGUAGE.get(script, "en")


def symbol_percent(text: str) -> int:
    """Return the share of a text's characters that are neither letters nor white space, in whole per cent."""
    sample = text[:_SAMPLE]
    return round(100 * len(_NOT_SYMBOL.sub("", sample)) / max(len(sample), 1))


@lru_cache(maxsize=512)
def _pieces(language: str, symbols: int) -> tuple[list[str], list[float], float]:
    """Return what a text is put together from, the cumulative weights, and the mean length of a piece."""
    gap = "" if language in _UNSPACED else " "
    words = [word + gap for word in _WORDS[language][1].split()]
    marks = [mark + gap for mark in _MARKED.split()]
    word_size = sum(map(len, words)) / len(words)
    mark_size = sum(map(len, marks)) / len(marks)
    shown = mark_size - len(gap)
    # p marks to 1 - p words: their share of all characters is p * shown / (p * mark_size + (1 - p) * word_size)
    share = min(symbols / 100, 0.9)
    p = min(share * word_size / (shown - share * (mark_size - word_size)), 0.97)
    line = min(1 / _LINE_EVERY, (1 - p) / 4)
    weights = [(1 - p - line) / len(words)] * len(words) + [p / len(marks)] * len(marks) + [line]
    mean = (1 - p - line) * word_size + p * mark_size + line
    return [*words, *marks, "\n"], list(accumulate(weights)), mean


def made_up_text(pick: random.Random, characters: int, language: str, symbols: int) -> str:
    """Return words of a language in no order, exactly so many characters, beginning and ending with no white space.

    Args:
        pick: where chance comes from.
        characters: length of the text; 0 gives an empty one.
        language: one of `LANGUAGES`.
        symbols: per cent of the characters that are digits or punctuation.
    """
    if characters <= 0:
        return ""
    pieces, weights, mean = _pieces(language, symbols)
    text = ""
    while len(text) < characters:
        missing = characters - len(text)
        text = (text + "".join(pick.choices(pieces, cum_weights=weights, k=int(missing / mean * 1.1) + 8))).lstrip()
    text = text[:characters]
    filler = pieces[0][0]
    return text if not text[-1].isspace() else text[:-1] + filler
