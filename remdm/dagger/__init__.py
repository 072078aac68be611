"""DAgger for any expert in any Gymnasium environment, in a few lines: `DAggerAgent`."""

from remdm.dagger.agent import DAggerAgent as DAggerAgent
from remdm.dagger.demonstrations import Demonstration as Demonstration
from remdm.dagger.evaluators import Evaluator as Evaluator
from remdm.dagger.evaluators import ReturnEvaluator as ReturnEvaluator
from remdm.dagger.evaluators import StepsToThreshold as StepsToThreshold
from remdm.dagger.evaluators import Validation as Validation
