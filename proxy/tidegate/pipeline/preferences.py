"""What a caller may choose about an answer: the header or the body says it, else its key, the model, the defaults."""

from collections.abc import Mapping

from tidegate.config.models import DefaultsConfig, ModelConfig
from tidegate.config.routing import RoutingConfig
from tidegate.pipeline.context import RequestContext
from tidegate.protocol.reasoning import take_format
from tidegate.protocol.request import ModelRequest
from tidegate.protocol.routing import PRIORITIES
from tidegate.routing import reach


class Preferences:
    """The configured ones; immutable, shared by all requests."""

    def __init__(
        self, defaults: DefaultsConfig, models: Mapping[str, ModelConfig], routing: RoutingConfig | None = None
    ) -> None:
        self._defaults = defaults
        self._models = models
        self._reach = (routing or RoutingConfig()).reach

    def choose(self, request: ModelRequest, context: RequestContext) -> None:
        """Note in `context` what holds for this request; what the body says of it is taken out.

        Raises:
            MalformedRequest: the body says something that means nothing.
            NotPermitted: it wishes to go further than it may.
        """
        model, options = self._models.get(request.model), context.options
        drops = options.drop_params
        if drops is None and model is not None:
            drops = model.drop_params
        context.drops_params = self._defaults.drop_params if drops is None else drops
        in_body = take_format(request.fields) if request.endpoint == "chat" else None
        context.reasoning_format = (
            options.reasoning_format
            or in_body
            or (context.principal and context.principal.reasoning_format)
            or (model and model.reasoning_format)
            or self._defaults.reasoning_format
        )
        key = context.principal
        allowed = reach.combine(self._reach, model.reach if model else None, key.reach if key else None)
        context.reach = reach.narrow(allowed, options.reach)
        if key is not None:
            context.priority = key.priority
        if options.priority is not None:
            context.priority = min(context.priority, options.priority, key=PRIORITIES.index)
