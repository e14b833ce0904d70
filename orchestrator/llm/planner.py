"""The planner on a LangChain chat model: one prompt, one answer, one proposed decision.

One `LangChainPlanner` is shared by all threads of a worker. It never retries by itself: the journal does,
where people see it. LangChain is imported when the model is first needed.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from orchestrator.domain.budget import Price
from orchestrator.domain.decision import Decision, Usage
from orchestrator.domain.keepable import keepable_text
from orchestrator.errors import BadAnswer, ConfigurationError, PlannerRefused
from orchestrator.flow.planning import CallBound, PlanRequest, Purse
from orchestrator.llm.answer import Answer, ToolCall, read_answer
from orchestrator.llm.bounds import LEAST_ANSWER, likely_tokens, prompt_tokens_at_most
from orchestrator.llm.prices import PriceTable
from orchestrator.llm.prompt import Prompt, build_prompt
from orchestrator.llm.prompts import Instructions
from orchestrator.llm.tools import Toolbox
from orchestrator.llm.trouble import CONTEXT_TOO_LONG, trouble, was_not_billed
from orchestrator.logs import mask

if TYPE_CHECKING:
    import httpx2
    from langchain_core.language_models import BaseChatModel
    from langchain_core.messages import AIMessage

log = logging.getLogger(__name__)

_CONNECT_SECONDS = 10.0
_MODEL_CHARS = 200

_SCALES = (1.0, 0.4, 0.15, 0.05)
"""Shares of their room that a prompt's sections get, tried in turn until the prompt fits the model."""

_NO_KEY = "no-key"
"""What a server of the user's own that asks for no key is sent: the client insists on one."""


class LangChainPlanner:
    """Decides with a chat model that can call tools.

    Args:
        model: ``provider:model`` as LangChain's ``init_chat_model`` takes it.
        timeout: seconds that one answer may take in all.
        max_tokens: tokens that one answer may have.
        api_key: key for ``openai:`` models; other providers' packages read their own from the environment.
        base_url: an OpenAI-compatible server, for ``openai:`` models.
        prices: what tokens cost.
        instructions: other instructions than those of the shipped prompt, for trials.
        verbose: log each prompt and answer at INFO, secrets masked.
    """

    def __init__(
        self,
        model: str,
        *,
        timeout: float,
        max_tokens: int,
        api_key: str | None = None,
        base_url: str | None = None,
        prices: PriceTable | None = None,
        instructions: Instructions | None = None,
        verbose: bool = False,
    ) -> None:
        self._name = model
        self._provider = model.partition(":")[0]
        self._timeout = timeout
        self._max_tokens = max_tokens
        self._api_key = api_key
        self._base_url = base_url
        self._price = None if prices is None else prices.of(model)
        self._instructions = instructions
        self._verbose = verbose
        self._instructions_told = False
        self._model: BaseChatModel | None = None
        self._http_client: httpx2.Client | None = None
        self._lock = threading.Lock()

    def prepare(self) -> None:
        """Import LangChain and build the model now (seconds) rather than with the first decision.

        Raises:
            ConfigurationError: there is no such provider, or its package or key is missing.
        """
        self._chat_model()

    def close(self) -> None:
        """Give connections back; the next decision would build the model anew."""
        with self._lock:
            client, self._http_client, self._model = self._http_client, None, None
        if client is not None:
            client.close()

    def decide(self, request: PlanRequest) -> Decision:
        """Ask the model once. See `orchestrator.flow.ports.Planner`."""
        try:
            model = self._chat_model()
        except ConfigurationError as error:
            raise PlannerRefused(str(error), hint=error.hint, task_id=request.task_id) from error
        toolbox = Toolbox.of(request.agents)
        tools = toolbox.definitions()
        prompts = self._prompts(model, request, tools)
        while True:
            try:
                return self._ask_once(model, prompts[0], toolbox, tools, request)
            except PlannerRefused as error:
                if error.code != CONTEXT_TOO_LONG or len(prompts) == 1:
                    raise
                prompts = prompts[1:]
                extra = {"task_id": request.task_id, "step": request.step, "model": self._name}
                log.warning("llm.prompt_trimmed", extra={**extra, "characters": len(prompts[0].user)})

    def _prompts(self, model: BaseChatModel, request: PlanRequest, tools: list[dict[str, Any]]) -> list[Prompt]:
        """The prompt at each size that differs, largest first, beginning with the first that may fit the model."""
        prompts: list[Prompt] = []
        for scale in _SCALES:
            prompt = build_prompt(request, scale, self._instructions)
            if not prompts or len(prompt.user) < 0.9 * len(prompts[-1].user):
                prompts.append(prompt)
        most = (model.profile or {}).get("max_input_tokens")
        if isinstance(most, int):
            fitting = [prompt for prompt in prompts if likely_tokens(prompt, tools) + self._max_tokens <= most]
            return fitting or prompts[-1:]
        return prompts

    def _ask_once(
        self,
        model: BaseChatModel,
        prompt: Prompt,
        toolbox: Toolbox,
        tools: list[dict[str, Any]],
        request: PlanRequest,
    ) -> Decision:
        bound = CallBound(
            model=self._name,
            prompt=prompt_tokens_at_most(prompt, tools),
            answer_most=self._max_tokens,
            answer_least=min(LEAST_ANSWER, self._max_tokens),
            price=self._price,
        )
        room = request.purse.reserve(bound)
        if self._verbose:
            self._tell_prompt(prompt, toolbox, request)
        started = time.monotonic()
        lost = Usage(self._name, bound.prompt, room, prompt_version=prompt.version)
        answer = self._ask(_with_room(model, room, self._max_tokens), prompt, tools, request, lost)
        read = _answer_of(answer, self._name, time.monotonic() - started, prompt.version, self._price)
        _settle(request.purse, read.usage)
        self._tell(
            "llm.answer",
            request,
            calls=[{"tool": call.name, "arguments": call.arguments, "problem": call.problem} for call in read.calls],
            text=read.text,
            finish_reason=read.finish_reason,
            tokens_in=read.usage.tokens_in,
            tokens_out=read.usage.tokens_out,
            seconds=round(read.usage.seconds, 3),
        )
        try:
            decision = read_answer(read, toolbox)
        except (BadAnswer, PlannerRefused) as error:
            error.task_id = request.task_id
            self._tell("llm.unusable", request, problem=str(error))
            raise
        self._tell("llm.decision", request, decision=decision.kind.value, reason=decision.reason)
        return decision

    def _ask(
        self, model: BaseChatModel, prompt: Prompt, tools: list[dict[str, Any]], request: PlanRequest, lost: Usage
    ) -> AIMessage:
        messages = [("system", prompt.system), ("human", prompt.user)]
        try:
            return model.bind_tools(tools).invoke(messages)
        except Exception as error:  # noqa: BLE001 - each provider's package has a tree of its own; all end as ours
            ours = _unfit_message(error) or trouble(error, self._name)
            if was_not_billed(error):
                request.purse.settle(0, Decimal(0))
            else:
                request.purse.lose()
                ours.usage = lost
            ours.task_id = request.task_id
            self._tell("llm.failed", request, problem=str(ours))
            # Not `from error`: its text and its request hold the key and the prompt, unmasked.
            raise ours from None

    def _tell_prompt(self, prompt: Prompt, toolbox: Toolbox, request: PlanRequest) -> None:
        # The instructions are the same each time: told once, then named by their version.
        instructions = {} if self._instructions_told else {"system": prompt.system}
        self._instructions_told = True
        self._tell(
            "llm.prompt",
            request,
            prompt_version=prompt.version,
            tools=list(toolbox.agents),
            **instructions,
            user=prompt.user,
        )

    def _tell(self, event: str, request: PlanRequest, **fields: Any) -> None:
        if self._verbose:
            log.info(event, extra={"task_id": request.task_id, "step": request.step, **mask.within(fields)})

    def _chat_model(self) -> BaseChatModel:
        model = self._model
        if model is None:
            with self._lock:
                model = self._model = self._model or self._build()
        return model

    def _build(self) -> BaseChatModel:
        from langchain.chat_models import init_chat_model
        from pydantic import SecretStr

        options: dict[str, Any] = {"timeout": self._timeout, "max_retries": 0, "max_tokens": self._max_tokens}
        if self._provider == "openai":
            options |= self._openai_options()
        try:
            model: BaseChatModel = init_chat_model(self._name, **options)
        except ImportError as error:
            raise ConfigurationError(f"ORCHESTRATOR_MODEL={self._name}: {error}", hint=_install_hint(error)) from error
        except Exception as error:  # noqa: BLE001 - whatever a provider's package raises while it reads its settings
            raise ConfigurationError(
                f"ORCHESTRATOR_MODEL={self._name} cannot be set up: {mask(str(error))}",
                hint="Check the provider's name and the settings it needs in the environment, such as its key.",
            ) from None
        secrets = [value for value in vars(model).values() if isinstance(value, SecretStr)]
        mask.add(*(secret.get_secret_value() for secret in secrets))
        return model

    def _openai_options(self) -> dict[str, Any]:
        from orchestrator.llm.deadline import openai_http_client

        self._http_client = openai_http_client(self._timeout, min(_CONNECT_SECONDS, self._timeout))
        options: dict[str, Any] = {"api_key": self._api_key or _NO_KEY, "http_client": self._http_client}
        if self._base_url is not None:
            # Compatible servers speak Chat Completions; by itself LangChain takes the Responses API for some names.
            options |= {"base_url": self._base_url, "use_responses_api": False}
        return options


def _unfit_message(error: Exception) -> BadAnswer | None:
    """The model's own fault where LangChain cannot even hold its answer, such as arguments that are a list."""
    from pydantic import ValidationError

    if not isinstance(error, ValidationError) or error.title != "AIMessage":
        return None
    places = ", ".join(".".join(map(str, one["loc"])) for one in error.errors(include_url=False, include_input=False))
    return BadAnswer(f"the answer is malformed at {places}: the arguments of a tool must be an object")


def _install_hint(error: ImportError) -> str:
    package = (error.name or "").replace("_", "-")
    said = str(error)
    if "pip install" in said:
        return said[said.index("pip install") :].strip("`. ")
    return f"pip install {package}" if package else "Install the provider's LangChain package."


def _with_room(model: BaseChatModel, room: int, most: int) -> BaseChatModel:
    """The model with less room for its answer, where the budget leaves less; it shares the connections."""
    if room >= most:
        return model
    fields = type(model).model_fields
    name = next((one for one in ("max_tokens", "max_output_tokens", "num_predict") if one in fields), None)
    return model if name is None else model.model_copy(update={name: room})


def _settle(purse: Purse, usage: Usage) -> None:
    """Settle the call; a provider that counts no tokens cost what was reserved."""
    if usage.tokens_in + usage.tokens_out == 0:
        purse.lose()
    else:
        purse.settle(usage.tokens_in + usage.tokens_out, None if usage.cost is None else Decimal(str(usage.cost)))


def _answer_of(message: AIMessage, model: str, seconds: float, version: str, price: Price | None) -> Answer:
    """LangChain's message in our own terms."""
    metadata: Mapping[str, Any] = message.response_metadata or {}
    used: Mapping[str, Any] = message.usage_metadata or {}
    calls = [_tool_call(call.get("name"), call.get("args"), None) for call in message.tool_calls]
    # A provider that counts below nothing would give a budget back what it never had.
    tokens_in, tokens_out = (max(0, int(used.get(name) or 0)) for name in ("input_tokens", "output_tokens"))
    calls += [_tool_call(call.get("name"), {}, _problem_with(call.get("args"))) for call in message.invalid_tool_calls]
    return Answer(
        calls=calls,
        text=str(message.text),
        finish_reason=_finish_reason(metadata),
        refusal=str(message.additional_kwargs.get("refusal") or ""),
        usage=Usage(
            model=_model_name(model, metadata),
            tokens_in=tokens_in,
            tokens_out=tokens_out,
            cost=None if price is None else float(price.of(tokens_in, tokens_out)),
            seconds=seconds,
            prompt_version=version,
        ),
    )


def _problem_with(arguments: str | None) -> str:
    """Why LangChain could not read a call's arguments; its own text repeats them whole."""
    try:
        json.loads(arguments or "")
    except RecursionError:
        return "they are nested too deeply"
    except ValueError as error:
        return f"{error}, in: {(arguments or '')[-80:]}"
    return "an object is needed"


def _tool_call(name: str | None, arguments: Any, problem: str | None) -> ToolCall:
    if not isinstance(arguments, Mapping):
        return ToolCall(name or "", {}, problem or "an object is needed")
    return ToolCall(name or "", arguments, problem)


def _finish_reason(metadata: Mapping[str, Any]) -> str:
    """Why the model stopped: Chat Completions, Anthropic, Gemini and the Responses API each have their own place."""
    incomplete = metadata.get("incomplete_details")
    reason = incomplete.get("reason") if isinstance(incomplete, Mapping) else None
    for name in ("finish_reason", "stop_reason", "done_reason"):
        reason = reason or metadata.get(name)
    return str(reason or "").lower()


def _model_name(model: str, metadata: Mapping[str, Any]) -> str:
    """``provider:model`` with the exact model that answered, where the provider says it."""
    answered = metadata.get("model_name") or metadata.get("model")
    name = f"{model.partition(':')[0]}:{answered}" if answered else model
    return keepable_text(name[:_MODEL_CHARS])
