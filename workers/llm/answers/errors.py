"""The error taxonomy: what each answer of a provider that is no success means for document, call and run.

    document   this document cannot be answered: an error row, retryable by a rerun or not; the partition goes on
    transient  the same call may succeed soon: repeated in place, with the provider's own Retry-After
    job        no call of this run can succeed until somebody acts: the run pauses with the reason, unless a short
               question is answered meanwhile: then it is the document's alone (`workers.llm.short_question`)

Statuses and codes: https://platform.openai.com/docs/guides/error-codes; words of other servers as their code and
bug reports about them have them (tests/unit/workers/llm/answers/test_errors.py names the provider of each).
"""

from __future__ import annotations

import re
from collections.abc import Container
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from batch.schema.error_types import RETRYABLE, ErrorType
from workers.llm.answers.completion import Completion
from workers.llm.answers.failure import SHOWN, Failure, one_line, read_failure


class Kind(Enum):
    DOCUMENT = "document"
    TRANSIENT = "transient"
    JOB = "job"


@dataclass(frozen=True, slots=True)
class Verdict:
    """`error_type` is the word that stands in rows, metrics and pause reasons.

    Of one of the job, `passes` says that it may be a limit a minute, whatever its words: it is waited for as long as
    others are answered.
    """

    kind: Kind
    error_type: str
    message: str
    final: bool = False
    """Of a document that ends the same way again, whatever its word says."""
    few: bool = False
    """Of a transient one: the provider did answer, so the same call is made twice more at most."""
    passes: bool = False
    wait: float | None = None
    """Seconds to wait before the next call, where the provider says so in words or its limit is a day's."""

    @property
    def retryable(self) -> bool:
        """Tells whether a rerun asks again."""
        return not self.final and (self.kind is Kind.TRANSIENT or self.error_type in RETRYABLE)


@dataclass(frozen=True, slots=True)
class Rule:
    """What an HTTP answer that is no success means. It fits if all fit that are given; the first of `RULES` counts."""

    kind: Kind
    error_type: str
    answer: str
    """As docs/errors.md names it."""
    status: Container[int] = range(1000)
    code: str = ""
    """A regular expression of a whole code of the error: `code`, `type`, `status`, `reason`, an inner one's."""
    says: str = ""
    """A regular expression of what the message contains, in lower case, and the codes after it."""
    either: bool = False
    """Whether code or words suffice."""
    few: bool = False
    wait: float | None = None
    hint: str = ""

    def fits(self, status: int, codes: tuple[str, ...], message: str) -> bool:
        """Tells whether an error of this status, with these codes and this message, is of this kind."""
        if status not in self.status:
            return False
        by_code = bool(self.code) and any(re.fullmatch(self.code, code, re.IGNORECASE) for code in codes)
        by_words = bool(self.says) and re.search(self.says, " ".join((message, *codes)).lower()) is not None
        if self.either:
            return by_code or by_words
        return (by_code or not self.code) and (by_words or not self.says)


NAMELESS = 0
"""The status of an error inside a 200 that names none."""
_CLIENT = (NAMELESS, *range(400, 500))
_REFUSED = (*_CLIENT, 500, 501)
"""Statuses with which servers refuse what was asked; old llama.cpp and Ollama do so with 500."""
DAY_WAIT = 60.0
"""Seconds between two calls while a day's limit is reached, where the provider does not say how long that lasts."""

_QUOTA = (
    "insufficient_quota|billing_hard_limit_reached|billing_not_active|credit_balance_exhausted|insufficient_balance"
    "|budget_exceeded|arrearage|billing_disabled|payment_required|insufficient_credits|insufficient_funds|1113"
    "|exceeded_current_quota_error"
)
_QUOTA_SAYS = (
    r"credit balance is too low|insufficient (account )?(balance|credits?|funds)|budget has been exceeded"
    r"|(used|run out of|out of) (all )?(your )?(available |remaining )?(resources|credits)"
    r"|billing (is )?(disabled|not enabled)|(monthly|weekly) (\w+ )?(limit|quota|budget)"
    r"|limited to [\d,.]+ [\w ]{1,20}(/|per) ?month"
    r"|余额不足|requires more credits|access denied, please make sure your account is in good standing"
)
_SPENT = r".*(spend|spending|budget|billing|credit|usage|monthly|hard|cost|balance|quota).*_limit_(exceeded|reached)"
"""Limits of spend, whatever their name; those of rate and of calls at once pass by waiting."""
_RATE = (
    "rate_limit_exceeded|rate_limit_error|rate_limited|throttlingexception|throttling(\\..+)?|requestlimitexceeded"
    "|too_many_requests|toomanyrequests(exception)?|resource_exhausted|slow_down"
)
_RATE_SAYS = r"rate.?limit|too many requests|requests? per (minute|second)|tokens per (minute|second)|throttled"
_DAY_SAYS = r"per.?day|\b[rt]pd\b|daily|(tokens|requests)_per_day|today|24 hours"
_OF_A_DAY = rf"(limit|quota|exceed|exhaust).*({_DAY_SAYS})|({_DAY_SAYS}).*(limit|quota|exceed|exhaust)"
_CONTENT = (
    "content_filter|content_policy_violation|ResponsibleAIPolicyViolation|invalid_prompt|data_inspection_failed"
    "|DataInspectionFailed|moderation_blocked|content_moderation|moderation_error|content_filtered|prohibited_content"
    "|content_filter_error|guardrail_intervened|safety|1301|1026|1027|cyber_policy_violation"
    "|contentpolicyviolationerror|image_content_policy_violation"
)
_CONTENT_SAYS = (
    r"\bflagged\b|moderation|content.?(filter|policy|management policy)|usage (policy|policies|guidelines)"
    r"|safety (system|policy|check|filter)|inappropriate content|content exists risk|considered high risk"
    r"|guardrail|prohibited.content|blocked by (the )?content|harmful content|敏感内容|violat\w+ .{0,40}polic"
)
_CONTEXT = (
    "context_length_exceeded|exceed_context_size_error|context_window_exceeded|contextwindowexceedederror"
    "|string_above_max_length|tokens_limit_reached|prompt_too_long|input_too_long|1261|context_too_long|max_tokens_exceeded"
)
_CONTEXT_SAYS = (
    r"(maximum|max\.?|available|models?|model's) ?(model )?"
    r"(context|prompt|sequence|input)[ _-]?(length|size|window|token)"
    r"|context[ _](length|size|window|limit)( of only| is only|s? exceeded)"
    r"|exceed\w* (the )?(\w+'s |available |maximum |max |model'?s? |the )*(context|prompt length|sequence length)"
    r"|longer than the (model'?s |maximum )?(maximum |model |context |sequence )*(length|context)"
    r"|(prompt|input|inputs|messages?|request|conversation) (is|are|was) too (long|large|many)"
    r"|prompt (tokens )?too long|too many (input |prompt )?tokens|input token count|token count .{0,40}exceed"
    r"|too large for model with|reduce the length of (the |your )?(messages?|prompt|input)"
    r"|greater than the context length"
    r"|exceed\w* (the )?model.{0,10}token limit|exceeds? the (maximum )?(number of )?tokens? (allowed|limit)"
    r"|must have less than \d+ tokens|`?max_new_tokens`? must be <=|exceeds? max (input|sequence) length"
    r"|max_(completion_)?tokens`?'? must be (at least|greater than).{0,20}got -|range of input length should be"
    r"|prompt length .{0,40}(should not exceed|exceeds|greater than)|exceeds n_ctx|max_seq_len"
    r"|input length .{0,60}exceed|input tokens .{0,20}(exceed|cannot exceed)|reached context length"
    r"|n_keep|when context the overflows|context overflow|prompt 超长|maximum allowed length"
)
_CAPACITY_SAYS = (
    r"capacity|overloaded|server (is )?busy|model (is )?busy|currently loading|still loading|loading model"
    r"|temporarily unavailable|no instances available|try again (later|in a (few|moment))|high demand"
    r"|maximum pending requests|engine is (overloaded|not ready)|service unavailable"
)
_KEY = (
    "invalid_api_key|api_key_invalid|authentication_error|unauthenticated|invalid_authentication|invalid_key"
    "|expired_api_key|expired_key"
)
_KEY_SAYS = (
    r"(api|access|subscription)[ _-]?key (is |was )?(not valid|invalid|expired|incorrect|missing|required|revoked)"
    r"|(invalid|incorrect|expired|missing|no|wrong) (or missing )?(\w+ )?(api|access|subscription)[ _-]?key"
    r"|api key not found|authentication (fails|failed|required)|invalid (authentication|credentials|token\b)"
    r"|unauthorized|no auth credentials"
)
_MODEL = (
    "model_not_found|model_not_exist|modelnotfound|model_decommissioned|invalid_model|model_not_supported"
    "|deploymentnotfound|model_not_available|unknown_model|model_deprecated|modelnotfounderror"
)
_MODEL_SAYS = (
    r"not a valid model|(unknown|invalid|unsupported|no such|nonexistent) model\b(?! output)|model not exist"
    r"|\bmodels?\b.{0,120}\b(does not exist|doesn't exist|not found|is not found|not loaded|is not available"
    r"|no longer available|decommissioned|deprecated|is not supported|isn't supported|could not be found|not exist)"
    r"|no models? (is |are )?loaded|no endpoints found|invalid model name"
)
_ENDPOINT = "OPENAI_BASE_URL must name the endpoint itself"

RULES = (
    Rule(Kind.JOB, ErrorType.UNEXPECTED_REDIRECT, "a redirect (3xx)", status=range(300, 400), hint=_ENDPOINT),
    Rule(Kind.TRANSIENT, ErrorType.RATE_LIMITED, "429 of a minute's limit, though called `insufficient_quota`", (429,),
         _QUOTA, r"allocated quota|per.?(minute|second)|rate.?limits? page|\b[rt]p[ms]\b|too many requests"),
    Rule(Kind.JOB, ErrorType.INSUFFICIENT_QUOTA, "`insufficient_quota`, `credit_balance_exhausted`, `billing_*`",
         code=_QUOTA),
    Rule(Kind.JOB, ErrorType.INSUFFICIENT_QUOTA, "402", status=(402,)),
    Rule(Kind.JOB, ErrorType.INSUFFICIENT_QUOTA, "words of an empty account", _CLIENT, says=_QUOTA_SAYS),
    Rule(Kind.JOB, ErrorType.INSUFFICIENT_QUOTA, "429 of a limit of spend: `*_limit_exceeded`", status=(429,),
         code=_SPENT),
    Rule(Kind.DOCUMENT, ErrorType.REQUEST_TOO_LARGE, '429 or 413 that says "request too large"', (429, 413, NAMELESS),
         says=r"request (is )?too large|requested \d+.{0,80}(reduce|larger)"),
    Rule(Kind.TRANSIENT, ErrorType.RATE_LIMITED, "429 of a day's limit", (429, NAMELESS), says=_OF_A_DAY,
         wait=DAY_WAIT),
    Rule(Kind.TRANSIENT, ErrorType.RATE_LIMITED, "any other 429: `rate_limit_exceeded`, `slow_down`", (429,)),
    Rule(Kind.DOCUMENT, ErrorType.CONTENT_FILTER, "a content filter's code, also Azure's, `invalid_prompt`", _REFUSED,
         _CONTENT),
    Rule(Kind.TRANSIENT, ErrorType.JSON_VALIDATE_FAILED, "`json_validate_failed`: the model's JSON was none", _REFUSED,
         "json_validate_failed", r"failed to generate json|failed_generation", either=True, few=True),
    Rule(Kind.DOCUMENT, ErrorType.CONTEXT_LENGTH_EXCEEDED, "`context_length_exceeded` and its like", _REFUSED,
         _CONTEXT),
    Rule(Kind.JOB, ErrorType.MODEL_NOT_FOUND, "`model_not_found` and its like", _REFUSED, _MODEL),
    Rule(Kind.JOB, ErrorType.INVALID_API_KEY, "a wrong key's code", _CLIENT, _KEY),
    Rule(Kind.TRANSIENT, ErrorType.RATE_LIMITED, "the code of a rate limit with another status", _CLIENT, _RATE),
    Rule(Kind.DOCUMENT, ErrorType.CONTEXT_LENGTH_EXCEEDED, "words of a context that is too short", (*_REFUSED, 413),
         says=_CONTEXT_SAYS),
    Rule(Kind.JOB, ErrorType.INVALID_API_KEY, "words of a wrong key", _CLIENT, says=_KEY_SAYS),
    Rule(Kind.DOCUMENT, ErrorType.CONTENT_FILTER, "words of a content filter", _REFUSED, says=_CONTENT_SAYS),
    Rule(Kind.JOB, ErrorType.MODEL_NOT_FOUND, "words of a model that is not there", _REFUSED, says=_MODEL_SAYS),
    Rule(Kind.TRANSIENT, ErrorType.RATE_LIMITED, "words of a rate limit", (NAMELESS, 400, 403, 503), says=_RATE_SAYS),
    Rule(Kind.TRANSIENT, ErrorType.OVERLOADED, "words of a lack of capacity", _CLIENT,
         "capacity_exceeded|overloaded_error|overloaded", _CAPACITY_SAYS, either=True),
    Rule(Kind.JOB, ErrorType.INVALID_API_KEY, "401", status=(401,)),
    Rule(Kind.JOB, ErrorType.PERMISSION_DENIED, "403", status=(403,)),
    Rule(Kind.JOB, ErrorType.MODEL_NOT_FOUND, "404", status=(404,)),
    Rule(Kind.TRANSIENT, "http_{status}", "408, 409, 425", status=(408, 409, 425)),
    Rule(Kind.TRANSIENT, "http_{status}", "5xx", status=range(500, 1000)),
    Rule(Kind.DOCUMENT, ErrorType.CONTEXT_LENGTH_EXCEEDED, "413", status=(413,)),
    # The reason is not known to be the document's own: a person who removed it may ask again by a rerun.
    Rule(Kind.DOCUMENT, ErrorType.BAD_REQUEST, "any other 4xx", status=range(400, 500)),
    Rule(Kind.TRANSIENT, ErrorType.PROVIDER_ERROR, "an error inside a 200 that names no status", few=True),
)  # fmt: skip

_TRY_AGAIN = re.compile(
    r"(?:try again|retry|reset\w*|wait)\D{0,20}?((?:\d+(?:\.\d+)?\s?(?:ms|milli|h|m|s)[a-z]*\s?)+)", re.IGNORECASE
)
_AMOUNT = re.compile(r"(\d+(?:\.\d+)?)\s?(ms|milli|h|m|s)", re.IGNORECASE)
_SECONDS = {"ms": 1e-3, "milli": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


def judge_status(status: int, body: Any, text: str = "") -> Verdict:
    """The verdict on an HTTP answer that is no 2xx. `body` is its decoded JSON, None where it is `text` instead."""
    return _judge(status, read_failure(body, text), f"HTTP {status}")


def _judge(status: int, failure: Failure, where: str) -> Verdict:
    shown = next((code for code in failure.codes if code != str(status)), "")
    message = f"{where}{f' {shown}' if shown else ''}: {failure.message or 'no error message'}"
    rule = next(rule for rule in RULES if rule.fits(status, failure.codes, failure.message))
    hint = f"; {rule.hint}" if rule.hint else ""
    wait = rule.wait
    if rule.error_type == ErrorType.RATE_LIMITED and (said := seconds_said(failure.message)) is not None:
        wait = said
    return Verdict(
        rule.kind,
        rule.error_type.format(status=status),
        message + hint,
        few=rule.few,
        passes=rule.error_type == ErrorType.INSUFFICIENT_QUOTA and status != 402,
        wait=wait,
    )


ALONE: dict[str, ErrorType] = {
    ErrorType.INSUFFICIENT_QUOTA: ErrorType.PAYMENT_REQUIRED,
    ErrorType.INVALID_API_KEY: ErrorType.UNAUTHORIZED,
    ErrorType.PERMISSION_DENIED: ErrorType.FORBIDDEN,
    ErrorType.MODEL_NOT_FOUND: ErrorType.NOT_FOUND,
    ErrorType.UNEXPECTED_REDIRECT: ErrorType.REDIRECTED,
}
"""What stops a run, and the word of the row that it is of one document alone. A quota in other ways than by a 402 is
`quota_exceeded`: Alibaba, for one, says `insufficient_quota` of a limit a minute."""


def alone(verdict: Verdict) -> Verdict:
    """What a verdict on the job is of the document alone, as others are answered: whoever mends the cause, or has it
    pass, may ask again."""
    error_type = ErrorType.QUOTA_EXCEEDED if verdict.passes else ALONE[verdict.error_type]
    return Verdict(Kind.DOCUMENT, error_type, verdict.message)


def seconds_said(message: str) -> float | None:
    """Tells how long a message asks to wait: "Please try again in 7m12.5s" (Groq, OpenAI), "retry in 20s" (Gemini)."""
    found = _TRY_AGAIN.search(message)
    if found is None:
        return None
    return sum(float(amount) * _SECONDS[unit.lower()] for amount, unit in _AMOUNT.findall(found[1]))


# -- answers -----------------------------------------------------------------------------------------------------------

WHOLE = {
    "stop": "OpenAI, Azure, vLLM, SGLang, llama.cpp, Ollama, Mistral, Groq, DeepSeek; Gemini's STOP",
    "eos": "Together",
    "eos_token": "TGI",
    "end_turn": "Anthropic, Bedrock",
    "stop_sequence": "Anthropic, Bedrock, TGI, Cohere's STOP_SEQUENCE",
    "complete": "Cohere's COMPLETE",
    "completed": "OpenAI's Responses, which gateways translate",
    "end": "Replicate and old FastChat",
    "normal": "Baidu",
}
"""Finish words (in lower case) of answers that are whole, and who says them."""
CUT = frozenset(
    {"length", "max_tokens", "max_length", "model_length", "model_context_window_exceeded", "max_output_tokens",
     "max_completion_tokens", "token_limit", "incomplete"}
)  # fmt: skip
"""Of answers that reached a limit of tokens: OpenAI, Anthropic, Gemini, TGI, Mistral, Cohere."""
FILTERED = frozenset(
    {"content_filter", "content_filtered", "safety", "recitation", "blocklist", "prohibited_content", "spii",
     "image_safety", "error_toxic", "guardrail_intervened", "sensitive", "moderation", "flagged"}
)  # fmt: skip
"""Of answers that a filter stopped: OpenAI, Azure, Gemini, Cohere, Bedrock, Zhipu."""
TOOLS = frozenset({"tool_calls", "tool_call", "function_call", "tool_use"})
# What is none of these was not brought to its end (vLLM's `abort`, OpenRouter's `error`, DeepSeek's
# `insufficient_system_resource`, Zhipu's `network_error`, Gemini's MALFORMED_FUNCTION_CALL), or nobody here knows.


def judge_answer(status: int, said: Completion, text: str = "") -> Verdict | None:
    """Returns the verdict on what a 2xx says; None for a whole answer. `text`: the beginning of a body that is no JSON.

    Whole is what ends with a word that is known to mean so, or with none (some servers give none), and holds more than
    white space.
    """
    if said.failure is not None:
        return _inside(status, said.failure)
    if said.refusal:
        return Verdict(Kind.DOCUMENT, ErrorType.REFUSAL, f"the model refused: {one_line(said.refusal)}")
    if said.blocked:
        message = f"the provider gave no answer: the prompt was blocked ({said.blocked})"
        return Verdict(Kind.DOCUMENT, ErrorType.CONTENT_FILTER, message)
    word = _finish_word(said.finish or "")
    if word in CUT:
        message = "the answer reached its token limit; raise model.max_output_tokens"
        return Verdict(Kind.DOCUMENT, ErrorType.TRUNCATED, message)
    if word in FILTERED:
        message = f"the provider's content filter stopped the answer ({one_line(said.finish or '')[:100]})"
        return Verdict(Kind.DOCUMENT, ErrorType.CONTENT_FILTER, message)
    if word == "refusal":
        return Verdict(Kind.DOCUMENT, ErrorType.REFUSAL, "the model refused")
    if said.tools or word in TOOLS:
        names = f" ({', '.join(said.tools)[:100]})" if said.tools else ""
        message = f"the model called a tool{names}: none was offered"
        return Verdict(Kind.DOCUMENT, ErrorType.TOOL_CALLS, message)
    if not said.has_choices and not said.has_choice:
        message = f"HTTP {status} {_what_came(text or said.shown)}"
        return Verdict(Kind.TRANSIENT, ErrorType.MALFORMED, message, few=True)
    if word and word not in WHOLE:
        message = f"the answer was not brought to its end: finish_reason {one_line(said.finish or '')[:100]!r}"
        return Verdict(Kind.TRANSIENT, ErrorType.UNFINISHED, message, few=True)
    if not said.has_choice:
        return Verdict(Kind.DOCUMENT, ErrorType.EMPTY_ANSWER, "the provider gave no candidate")
    if not is_visible(said.text or ""):
        message = "the model gave nothing but thoughts" if said.thought else "the model gave no content"
        return Verdict(Kind.DOCUMENT, ErrorType.EMPTY_ANSWER, message)
    return None


def _finish_word(said: str) -> str:
    """As the tables below have it: of `FinishReason.MAX_TOKENS`, `FINISH_REASON_STOP`, `content_filter: SAFETY`."""
    word = re.sub(r"[\s-]+", "_", said.lower().partition(":")[0].strip())
    return re.sub(r"^finish_?reason[._]", "", word)


def is_visible(text: str) -> bool:
    """Tells whether there is anything in a text but white space, control and zero-width characters."""
    return any(char.isprintable() and not char.isspace() for char in text)


def _inside(status: int, failure: Failure) -> Verdict:
    """Of an error inside a success: by the status that it names, and asked again only a few times."""
    named = failure.status or NAMELESS
    verdict = _judge(named, failure, f"HTTP {status} with an error{f' {named}' if named else ''} inside")
    few = verdict.kind is Kind.TRANSIENT and verdict.error_type != ErrorType.RATE_LIMITED
    return replace(verdict, few=few)


def _what_came(text: str) -> str:
    shown = one_line(text)[: SHOWN - 100]
    if not text.strip():
        return "with no answer of the chat API"
    if re.match(r"(data|event|id|retry)?:", text.lstrip()):
        return f"with a stream of events (text/event-stream), not the one JSON that was asked for: {shown}"
    return f"with {'no answer of the chat API' if text[:1] in '{[' else 'no JSON'}: {shown}"
