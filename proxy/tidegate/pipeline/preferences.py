"""`Preferences`: what a caller may choose about its answer.

The first of these that says something decides: the header, the body, the caller's key, the model, the defaults. Reach
and priority differ: a header can only narrow the reach that the operator allows, and only lower the priority.
"""

from collections.abc import Mapping

from tidegate.config.models import DefaultsConfig, ModelConfig
from tidegate.config.routing import RoutingConfig
from tidegate.pipeline.context import RequestContext
from tidegate.protocol.reasoning import take_format
from tidegate.protocol.request import ModelRequest
from tidegate.protocol.routing import PRIORITIES
from tidegate.routing import reach


class Preferences:
    """The configured preferences; immutable, shared by all requests."""

    def __init__(
        self, defaults: DefaultsConfig, models: Mapping[str, ModelConfig], routing: RoutingConfig | None = None
    ) -> None:
        self._defaults = defaults
        self._models = models
        self._reach = (routing or RoutingConfig()).reach

    def resolve(self, request: ModelRequest, context: RequestContext) -> None:
        """Store in `context` the preferences of this request; the fields of the body that state them are removed.

        Raises:
            MalformedRequest: the body has an unknown reasoning format.
            NotPermitted: the header asks for a wider reach than the caller or the model is allowed.
        """
        model, options = self._models.get(request.model), context.options
        drops_params = options.drop_params
        if drops_params is None and model is not None:
            drops_params = model.drop_params
        context.drops_params = self._defaults.drop_params if drops_params is None else drops_params
        in_body = take_format(request.fields) if request.endpoint == "chat" else None
        context.reasoning_format = (
            options.reasoning_format
            or in_body
            or (context.principal and context.principal.reasoning_format)
            or (model and model.reasoning_format)
            or self._defaults.reasoning_format
        )
        principal = context.principal
        allowed = reach.combine(self._reach, model.reach if model else None, principal.reach if principal else None)
        context.reach = reach.narrow(allowed, options.reach)
        if principal is not None:
            context.priority = principal.priority
        if options.priority is not None:
            context.priority = min(context.priority, options.priority, key=PRIORITIES.index)
